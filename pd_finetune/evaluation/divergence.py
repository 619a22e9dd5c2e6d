"""How far the edited model's predictions are from the clean ones on protected held-out text."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from pd_finetune.evaluation.predictions import logits_of, row_parts
from pd_finetune.targets.changes import Change, baked
from pd_finetune.targets.load import Target


def sequence_divergences(
    target: Target, change: Change, ids: Int[Tensor, "rows pos"], batch: int = 0
) -> list[float]:
    """Mean KL(clean || edited) per token of each row, in nats, over every position but the last.

    The same positions as the cross-entropy's. Both models run on the same rows one after the
    other, so that the clean log-probabilities need no place.
    """
    values: list[float] = []
    for part in row_parts(target, ids, batch):
        rows = ids[part, :-1]
        clean = logits_of(target, rows).log_softmax(-1)
        with baked(target.model, change):
            edited = logits_of(target, rows).log_softmax(-1)
        kl = F.kl_div(edited, clean, reduction="none", log_target=True).sum(-1)
        values += kl.double().mean(1).tolist()
    return values
