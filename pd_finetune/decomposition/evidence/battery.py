"""The whole evidence table of a decomposition, over all sites together and one at a time."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from pd_finetune.decomposition.config import LadderConfig
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.evidence.adversary import climb, random_start
from pd_finetune.decomposition.evidence.counts import (
    ALIVE_MEAN_CI,
    CLEARLY_IMPORTANT_CI,
    ci_histogram,
    mean_ci_spectrum,
    site_counts,
    total_counts,
)
from pd_finetune.decomposition.evidence.maskings import (
    MASKINGS,
    Batch,
    held_out_batches,
    masked_divergence,
)
from pd_finetune.decomposition.losses import faithfulness
from pd_finetune.decomposition.sites import weight_at
from pd_finetune.errors import UserError
from pd_finetune.targets.load import Target

# a ceiling below this is rounding, and nothing is normalised by it
_SMALLEST_CEILING_NATS = 1e-6


def _of_ceiling(nats: float, ceiling: float) -> float | None:
    return nats / ceiling if ceiling > _SMALLEST_CEILING_NATS else None


def _row(windows: Float[Tensor, " windows"], ceiling: float) -> dict[str, Any]:
    """Mean over windows, its standard error (null for one window), share of the ceiling."""
    nats, n = windows.double().mean().item(), len(windows)
    error = (windows.double().std() / math.sqrt(n)).item() if n > 1 else None
    return {
        "nats": nats,
        "standard_error_nats": error,
        "of_zero_masked": _of_ceiling(nats, ceiling),
    }


def rung(traces: list[list[float]], steps: int, ceiling: float) -> dict[str, Any]:
    """KL after `steps` steps of each climb: mean, sample standard deviation, extremes."""
    values = [trace[steps] for trace in traces]
    mean, n = sum(values) / len(values), len(values)
    square = sum((value - mean) ** 2 for value in values)
    return {
        "steps": steps,
        "nats": mean,
        "std_nats": math.sqrt(square / (n - 1)) if n > 1 else None,
        "lowest_nats": min(values),
        "highest_nats": max(values),
        "of_zero_masked": _of_ceiling(mean, ceiling),
    }


def _kl_rows(
    batches: list[Batch], sites: list[str], generator: torch.Generator
) -> dict[str, dict[str, Any]]:
    found = {
        name: masked_divergence(batches, masking, sites, generator)
        for name, masking in MASKINGS.items()
    }
    ceiling = found["zero"].double().mean().item()
    if not math.isfinite(sum(windows.sum().item() for windows in found.values())):
        raise UserError(
            f"KL with {', '.join(sites[:2])}{', ...' * (len(sites) > 2)} masked is not finite: "
            "the decomposition is damaged, or its training diverged"
        )
    return {name: _row(windows, ceiling) for name, windows in found.items()}


def battery(
    target: Target,
    decomposition: Decomposition,
    ids: Int[Tensor, "windows pos"],
    adversary: LadderConfig,
    seed: int = 0,
    batch: int = 16,
    progress: bool = True,
) -> dict[str, Any]:
    """KL (nats per token) under all maskings and the adversary's ladder, CI-L0, alive, spectra.

    KL rows are normalised by the zero-masked KL of the same sites (`of_zero_masked`; null where
    that is about 0). Delta is dropped in all rows but the stochastic and the adversarial ones. At
    one site: that site alone is masked, the others run the target's own matrices.

    Args:
        ids: windows of held-out text, of the length that the decomposition was trained on.
        batch: windows in a forward; it changes no more than the order of sums and of draws.

    Raises:
        UserError: a KL is not finite.
    """
    components, order = decomposition.components, decomposition.ci_function.order
    generator = torch.Generator().manual_seed(seed)
    batches = held_out_batches(target, components, decomposition.ci_function, ids, batch)
    kl = _kl_rows(batches, order, generator)
    ceiling = kl["zero"]["nats"]
    longest = adversary.rungs[-1]
    work = adversary.restarts * longest + len(order) * adversary.site_steps
    with tqdm(total=work, desc="adversary", unit="step", disable=not progress) as bar:
        traces = []
        for _ in range(adversary.restarts):
            start = random_start((components.sites[name] for name in order), generator)
            traces.append(climb(batches, start, longest, adversary.step, bar))
        sites = {
            name: _site(target, decomposition, batches, name, adversary, generator, bar)
            for name in order
        }
    with torch.no_grad():
        faithful = faithfulness(components, target.model).item()
    return {
        "tokens": ids.numel(),
        "thresholds": {
            "ci_l0": [0.0, CLEARLY_IMPORTANT_CI],
            "alive_mean_ci": ALIVE_MEAN_CI,
        },
        "kl": kl,
        "adversary": {
            "restarts": adversary.restarts,
            "rungs": [rung(traces, steps, ceiling) for steps in (0, *adversary.rungs)],
            "trace_nats": traces,
        },
        "faithfulness_relative": faithful,
        **total_counts(sites),
        "sites": sites,
    }


def _site(
    target: Target,
    decomposition: Decomposition,
    batches: list[Batch],
    name: str,
    adversary: LadderConfig,
    generator: torch.Generator,
    bar: tqdm[Any],
) -> dict[str, Any]:
    """One site: size, rank, counts, spectrum, and the KL rows of masking it alone."""
    site = decomposition.sites[name]
    ci = torch.cat([part.ci[name].flatten(0, 1) for part in batches])
    kl = _kl_rows(batches, [name], generator)
    start = random_start([site], generator)
    trace = climb(batches, start, adversary.site_steps, adversary.step, bar)
    with torch.no_grad():
        weight = weight_at(target.model, site).float()
        delta = decomposition.components.delta(target.model, name).float()
    return {
        **site_counts(ci),
        "d_in": site.d_in,
        "d_out": site.d_out,
        "rank": int(torch.linalg.matrix_rank(weight)),
        "faithfulness_relative": (delta.square().sum() / weight.square().sum()).item(),
        "kl": kl,
        "adversary": rung([trace], adversary.site_steps, kl["zero"]["nats"]),
        "mean_ci": mean_ci_spectrum(ci),
        "ci_histogram": ci_histogram(ci),
    }
