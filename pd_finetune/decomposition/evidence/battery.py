"""The evidence of a decomposition, over all sites together and one at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.evidence.adversary import climb, random_start
from pd_finetune.decomposition.evidence.counts import (
    ALIVE_MEAN_CI,
    CLEARLY_IMPORTANT_CI,
    SITE_COUNTS,
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
from pd_finetune.targets.readout import Decomposable

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
    target: Decomposable,
    decomposition: Decomposition,
    ids: Tensor,
    *,
    rungs: Sequence[int],
    step: float,
    restarts: int = 1,
    site_steps: int | None = None,
    seed: int = 0,
    batch: int = 16,
    progress: bool = True,
) -> dict[str, Any]:
    """KL (nats per token) under all maskings and the adversary's ladder, CI-L0, alive, spectra.

    KL rows are normalised by the zero-masked KL of the same sites (`of_zero_masked`; null where
    that is about 0). Delta is dropped in all rows but the stochastic and the adversarial ones, as
    in the published evaluation. Of a toy the divergence is its MSE, and tokens are samples.

    Args:
        ids: windows [windows, pos] of held-out text, as long as those of the training; of a toy
            its inputs.
        rungs: rising numbers of the fresh adversary's steps, from `restarts` random starts.
        step: of a source, which lies in [0, 1].
        site_steps: of the climbs at one site alone. Each site is then masked alone, too, while the
            others run the target's own matrices; None: its importances are only counted.
        batch: windows in a forward; it changes no more than the order of sums and of draws.

    Raises:
        UserError: a KL is not finite.
    """
    components, order = decomposition.components, decomposition.ci_function.order
    generator = torch.Generator().manual_seed(seed)
    batches = held_out_batches(target, components, decomposition.ci_function, ids, batch)
    kl = _kl_rows(batches, order, generator)
    work = restarts * rungs[-1] + len(order) * (site_steps or 0)
    with tqdm(total=work, desc="adversary", unit="step", disable=not progress) as bar:
        traces = []
        for _ in range(restarts):
            start = random_start((components.sites[name] for name in order), generator)
            traces.append(climb(batches, start, rungs[-1], step, bar))
        sites = {}
        for name in order:
            sites[name] = _counted(target, decomposition, batches, name)
            if site_steps is not None:
                alone = _kl_rows(batches, [name], generator)
                start = random_start([components.sites[name]], generator)
                trace = climb(batches, start, site_steps, step, bar)
                climbed = rung([trace], site_steps, alone["zero"]["nats"])
                sites[name] |= {"kl": alone, "adversary": climbed}
    with torch.no_grad():
        faithful = faithfulness(components, target.model).item()
    ceiling = kl["zero"]["nats"]
    return {
        "tokens": sum(part.tokens for part in batches),
        "thresholds": {
            "ci_l0": [0.0, CLEARLY_IMPORTANT_CI],
            "alive_mean_ci": ALIVE_MEAN_CI,
        },
        "kl": kl,
        "adversary": {
            "restarts": restarts,
            "rungs": [rung(traces, steps, ceiling) for steps in sorted({0, *rungs})],
            "trace_nats": traces,
        },
        "faithfulness_relative": faithful,
        **total_counts(sites),
        "sites": sites,
    }


def _counted(
    target: Decomposable, decomposition: Decomposition, batches: list[Batch], name: str
) -> dict[str, Any]:
    """One site: size, rank, counts, spectrum."""
    site = decomposition.sites[name]
    ci = torch.cat([part.ci[name].flatten(0, 1) for part in batches])
    with torch.no_grad():
        weight = weight_at(target.model, site).float()
        delta = decomposition.components.delta(target.model, name).float()
    return {
        **site_counts(ci),
        "d_in": site.d_in,
        "d_out": site.d_out,
        "rank": int(torch.linalg.matrix_rank(weight)),
        "faithfulness_relative": (delta.square().sum() / weight.square().sum()).item(),
        "mean_ci": mean_ci_spectrum(ci),
        "ci_histogram": ci_histogram(ci),
    }


def summary(found: dict[str, Any], term: str) -> dict[str, Any]:
    """What of a battery is kept beside the weights of a training: means and counts.

    Args:
        term: what the divergence is called, as `Readout.term`: `kl_nats`.
    """
    means = {name: row["nats"] for name, row in found["kl"].items()}
    last = found["adversary"]["rungs"][-1]
    totals = ("ci_l0", "ci_l0_above_0.1", "alive", "subcomponents")
    return {
        "tokens": found["tokens"],
        "adversary_steps": last["steps"],
        term: {**means, "fresh_adversary": last["nats"]},
        "faithfulness_relative": found["faithfulness_relative"],
        **{name: found[name] for name in totals},
        "sites": {site: {n: row[n] for n in SITE_COUNTS} for site, row in found["sites"].items()},
    }
