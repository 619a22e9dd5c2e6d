"""The evidence that a training ends with: KL under masks of all kinds, CI-L0, alive ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.config import QualityConfig
from pd_finetune.decomposition.evidence.adversary import climb, random_start
from pd_finetune.decomposition.evidence.counts import site_counts, total_counts
from pd_finetune.decomposition.evidence.maskings import (
    MASKINGS,
    held_out_batches,
    masked_divergence,
)
from pd_finetune.decomposition.losses import faithfulness
from pd_finetune.targets.readout import Decomposable


def evidence(
    target: Decomposable,
    components: Subcomponents,
    ci_function: CIFunction,
    ids: Tensor,
    settings: QualityConfig,
    seed: int = 0,
) -> dict[str, Any]:
    """The evidence on held-out windows: KL in nats per token, CI-L0, alive, per site.

    The short form that a training ends with; `pd_finetune.quality` makes the long one. Delta is
    dropped in all rows but the stochastic and the adversarial ones, as in the published
    evaluation. `ids` holds up to a few thousand tokens: all are run in one batch. Of a toy, `ids`
    are its inputs, tokens are samples, and `mse` stands in place of `kl_nats`.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = held_out_batches(target, components, ci_function, ids, len(ids))
    divergence = {
        name: masked_divergence(batches, masking, ci_function.order, generator).mean().item()
        for name, masking in MASKINGS.items()
    }
    start = random_start((components.sites[name] for name in ci_function.order), generator)
    trace = climb(batches, start, settings.adversary_steps, settings.adversary_step)
    with torch.no_grad():
        faithful = faithfulness(components, target.model).item()
    sites = {name: site_counts(ci.flatten(0, 1)) for name, ci in batches[0].ci.items()}
    return {
        "tokens": batches[0].tokens,
        "adversary_steps": settings.adversary_steps,
        target.readout.term: {**divergence, "fresh_adversary": trace[-1]},
        "faithfulness_relative": faithful,
        **total_counts(sites),
        "sites": sites,
    }


def print_evidence(proof: dict[str, Any]) -> None:
    """The evidence as terminal tables: totals, then one row per site."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    totals = Table(title=f"evidence on {proof['tokens']} held-out tokens")
    totals.add_column("check")
    totals.add_column("value", justify="right")
    for name, value in proof["kl_nats"].items():
        totals.add_row(f"KL {name} (nats)", f"{value:.4f}")
    totals.add_row("||Delta||^2 / ||W||^2", f"{proof['faithfulness_relative']:.2e}")
    totals.add_row("CI-L0", f"{proof['ci_l0']:.1f} of {proof['subcomponents']}")
    totals.add_row("CI-L0 above 0.1", f"{proof['ci_l0_above_0.1']:.1f}")
    totals.add_row("alive (mean CI > 1e-6)", str(proof["alive"]))
    console.print(totals)
    sites = Table("site", "C", "alive", "CI-L0", "CI-L0 > 0.1", "highest mean CI")
    for name, row in proof["sites"].items():
        numbers = (row["ci_l0"], row["ci_l0_above_0.1"], row["highest_mean_ci"])
        sites.add_row(name, str(row["C"]), str(row["alive"]), *(f"{n:.2f}" for n in numbers))
    console.print(sites)
