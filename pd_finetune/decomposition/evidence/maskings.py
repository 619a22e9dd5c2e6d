"""Held-out text under masks of every kind: KL(clean || masked), in all sites or in one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import SiteMask, Subcomponents
from pd_finetune.decomposition.reconstruction import Reconstruction
from pd_finetune.decomposition.sigmoids import lower_leaky
from pd_finetune.targets.readout import Decomposable

Masking = Callable[[Tensor, torch.Generator], SiteMask]


def _uniform(shape: torch.Size, like: Tensor, generator: torch.Generator) -> Tensor:
    """r ~ U(0, 1), drawn on the CPU so that every device sees the same."""
    return torch.rand(shape, generator=generator).to(like.device)


def _stochastic(ci: Tensor, generator: torch.Generator) -> SiteMask:
    mask = ci + (1 - ci) * _uniform(ci.shape, ci, generator)
    return SiteMask(mask, _uniform(ci.shape[:-1], ci, generator))


# causal importance [rows, pos, C] of a site -> how the site is replaced. Delta is dropped in all
# but the stochastic one, as in the published evaluation.
MASKINGS: dict[str, Masking] = {
    "unmasked": lambda ci, generator: SiteMask(torch.ones_like(ci)),
    "ci_masked": lambda ci, generator: SiteMask(ci),
    "rounded": lambda ci, generator: SiteMask((ci > 0).float()),
    "stochastic": _stochastic,
    "random": lambda ci, generator: SiteMask(_uniform(ci.shape, ci, generator)),
    "zero": lambda ci, generator: SiteMask(torch.zeros_like(ci)),
}


@dataclass
class Batch:
    """Some windows of held-out text: their clean forward, and causal importances by site."""

    recon: Reconstruction
    ci: dict[str, Float[Tensor, "rows pos C"]]

    @property
    def tokens(self) -> int:
        return self.recon.positions


@torch.no_grad()
def held_out_batches(
    target: Decomposable,
    components: Subcomponents,
    ci_function: CIFunction,
    ids: Tensor,
    rows: int,
) -> list[Batch]:
    """Clean forwards of all windows, at most `rows` at a time, in float32."""
    made = []
    for part in ids.split(rows):
        recon = Reconstruction(target.model, components, ci_function, part, readout=target.readout)
        made.append(Batch(recon, ci_function.split(lower_leaky(recon.pre_sigmoid()))))
    return made


@torch.no_grad()
def masked_divergence(
    batches: list[Batch],
    masking: Masking,
    sites: Iterable[str],
    generator: torch.Generator,
) -> Float[Tensor, " windows"]:
    """Mean KL in nats per token of each window; the sites named are masked, the others run W."""
    names = list(sites)
    found = []
    for batch in batches:
        masks = {name: masking(batch.ci[name], generator) for name in names}
        found.append(batch.recon.divergence_under(masks).mean(-1))
    return torch.cat(found).cpu()
