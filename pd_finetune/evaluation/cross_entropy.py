"""Next-token cross-entropy on held-out windows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pd_finetune.evaluation.predictions import logits_of, plain_embedding, row_parts
from pd_finetune.targets.load import Target
from pd_finetune.targets.partition import log_partition
from pd_finetune.targets.upper import UpperLayers


def sequence_cross_entropies(
    target: Target, ids: Int[Tensor, "rows pos"], batch: int = 0
) -> list[float]:
    """Mean next-token cross-entropy of each row, in nats; the first token is not predicted.

    Rows are equally long, so the mean of these values is the mean per token.
    """
    embedding = plain_embedding(target)
    if embedding is None:
        return _from_logits(target, ids, batch)
    values: list[float] = []
    body = UpperLayers(target.model, None)
    for part in row_parts(target, ids, batch):
        rows = ids[part].to(target.device)
        with torch.no_grad():
            ce, _ = cross_entropies(body.hidden(rows[:, :-1]), rows[:, 1:], embedding)
        values += ce.double().mean(1).tolist()
    return values


def cross_entropies(
    hidden: Float[Tensor, "rows pos width"],
    labels: Int[Tensor, "rows pos"],
    embedding: Float[Tensor, "vocab width"],
) -> tuple[Float[Tensor, "rows pos"], Float[Tensor, "rows pos"]]:
    """Cross-entropy at each position, and the log of the partition sum that it rests on."""
    partition = log_partition(hidden.flatten(0, 1), embedding).view(labels.shape)
    return partition - (hidden * embedding[labels]).sum(-1), partition


def _from_logits(target: Target, ids: Int[Tensor, "rows pos"], batch: int) -> list[float]:
    values: list[float] = []
    for part in row_parts(target, ids, batch):
        rows = ids[part].to(target.device)
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
