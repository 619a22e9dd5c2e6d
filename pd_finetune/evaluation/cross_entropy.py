"""Next-token cross-entropy on held-out windows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from pd_finetune.evaluation.predictions import logits_of, row_parts
from pd_finetune.targets.load import Target


def sequence_cross_entropies(
    target: Target, ids: Int[Tensor, "rows pos"], batch: int
) -> list[float]:
    """Mean next-token cross-entropy of each row, in nats; the first token is not predicted.

    Rows are equally long, so the mean of these values is the mean per token.
    """
    values: list[float] = []
    for part in row_parts(target, ids, batch):
        rows = ids[part].to(target.model.device)
        logits = logits_of(target, rows[:, :-1])
        ce = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
        values += ce.view(rows.shape[0], -1).double().mean(1).tolist()
    return values


def mean(values: list[float]) -> float:
    """The aggregate of per-sequence values."""
    return sum(values) / len(values)


def paired_standard_error(before: list[float], after: list[float]) -> float:
    """Standard error of the mean difference after - before over the same sequences; 0 for one."""
    if len(before) < 2:
        return 0.0
    difference = torch.tensor(after, dtype=torch.float64) - torch.tensor(
        before, dtype=torch.float64
    )
    return float(difference.std() / len(before) ** 0.5)
