"""A finished toy decomposition against the truth: numbers, terminal table."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.evidence.maskings import held_out_batches
from pd_finetune.toys.model import ToyTarget
from pd_finetune.toys.truth import compare

PROBE = 0.75  # value of the one active feature, as in SPD's evaluation of toys


@torch.no_grad()
def importances(
    target: ToyTarget,
    components: Subcomponents,
    ci_function: CIFunction,
    held_out: Float[Tensor, "rows pos features"],
) -> dict[str, tuple[Float[Tensor, " C"], Float[Tensor, "features C"]]]:
    """Per site: mean causal importance on held-out inputs, and while one feature is active."""
    probe = PROBE * torch.eye(target.model.features, device=target.device)[:, None]
    usual, single = (
        held_out_batches(target, components, ci_function, x, len(x))[0].ci
        for x in (held_out, probe)
    )
    return {name: (usual[name].flatten(0, 1).mean(0), single[name][:, 0]) for name in usual}


@torch.no_grad()
def against_truth(
    target: ToyTarget,
    components: Subcomponents,
    ci: dict[str, tuple[Float[Tensor, " C"], Float[Tensor, "features C"]]],
) -> dict[str, dict[str, Any]]:
    """`compare` for each decomposed site of which the truth is known."""
    known = target.model.truth()
    return {
        name: compare(known[name], components.V(name), components.U(name), *values)
        for name, values in ci.items()
        if name in known
    }


def print_truth(record: dict[str, Any]) -> None:
    """The comparison as a terminal table, one row per site."""
    import pandas as pd

    from pd_finetune.tables import print_table

    rows = []
    for name, row in record["truth"].items():
        wanted = row["important_per_feature_true"]
        important = f"{row['important_per_feature']:.2f}"
        cells = {
            "site": name,
            "cosine": row.get("mean_max_cosine"),
            "at start": record["truth_at_start"][name].get("mean_max_cosine"),
            "norm ratio": row.get("mean_norm_ratio"),
            "important": f"{important} of {'?' if wanted is None else f'{wanted:g}'}",
            "alive": f"{row['alive']} of {row['alive_true']}",
            "exact": row.get("exact_features"),
        }
        rows.append({k: f"{v:.3f}" if isinstance(v, float) else v for k, v in cells.items()})
    print_table(pd.DataFrame(rows), f"{record['toy']['name']}: recovered against true")
    mse = "  ".join(f"{name} {value:.2e}" for name, value in record["evidence"]["mse"].items())
    print(f"mean squared error under masks: {mse}")
