"""The fresh adversary: one source per subcomponent and Delta, climbed on held-out text by sign."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from pd_finetune.decomposition.components import SiteMask
from pd_finetune.decomposition.evidence.maskings import Batch
from pd_finetune.decomposition.sites import Site

# by site: r in [0, 1] of each subcomponent and, last, the mask of Delta
Sources = dict[str, Float[Tensor, " C+1"]]


def random_start(sites: Iterable[Site], generator: torch.Generator) -> Sources:
    """Sources from U(0, 1), drawn on the CPU so that every device sees the same."""
    return {site.name: torch.rand(site.C + 1, generator=generator) for site in sites}


def _under(batch: Batch, sources: Sources) -> Tensor:
    """Mean KL of a batch: mask g + (1 - g) r, the same r at every position of every window."""
    masks = {}
    for name, source in sources.items():
        ci = batch.ci[name]
        masks[name] = SiteMask(ci + (1 - ci) * source[:-1], source[-1].expand(ci.shape[:-1]))
    return batch.recon.divergence_under(masks).mean()


def climb(
    batches: list[Batch],
    start: Sources,
    steps: int,
    step_size: float,
    bar: tqdm[Any] | None = None,
) -> list[float]:
    """Mean KL in nats per token at the start and after each of `steps` sign steps.

    Sign steps are those of the published evaluation (`s <- clamp(s + 0.1 sign(dKL/ds), 0, 1)`).
    A longer climb begins with the shorter one, so that one climb holds the whole ladder. Nothing
    keeps it from falling: near a corner of the cube, steps may overshoot.

    Args:
        batches: the text; the gradient is that of the mean over all of it.
        start: sources of the sites to be masked; the others run the target's own matrices.
        bar: advanced by one at each step.
    """
    names = list(start)
    device = batches[0].recon.batch.device
    values = [start[name].to(device) for name in names]
    total = sum(batch.tokens for batch in batches)
    trace = []
    for step in range(steps + 1):
        leaves = [value.detach().requires_grad_(step < steps) for value in values]
        gradients = [torch.zeros_like(leaf) for leaf in leaves]
        mean = 0.0
        for batch in batches:
            with torch.set_grad_enabled(step < steps):
                kl = _under(batch, dict(zip(names, leaves, strict=True)))
                kl = kl * (batch.tokens / total)
            mean += kl.item()
            if step < steps:
                for sum_, part in zip(gradients, torch.autograd.grad(kl, leaves), strict=True):
                    sum_.add_(part)
        trace.append(mean)
        values = [
            (leaf.detach() + step_size * gradient.sign()).clamp_(0.0, 1.0)
            for leaf, gradient in zip(leaves, gradients, strict=True)
        ]
        if bar is not None and step < steps:
            bar.set_postfix(kl=f"{mean:.2f}", refresh=False)
            bar.update()
    return trace
