"""Forwards for evaluation: float32 logits of whole windows, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pd_finetune.targets.load import Target

_LOGIT_BYTES = 2**26  # logits that one forward may hold


def row_parts(target: Target, ids: Int[Tensor, "rows pos"], batch: int) -> Iterator[slice]:
    """Slices of rows: `batch` each, or fewer where their logits would take over 64 MB."""
    vocab = int(target.model.config.get_text_config().vocab_size)
    size = max(1, min(batch, _LOGIT_BYTES // (4 * vocab * max(1, ids.shape[1]))))
    for start in range(0, len(ids), size):
        yield slice(start, start + size)


@torch.no_grad()
def logits_of(target: Target, ids: Int[Tensor, "rows pos"]) -> Float[Tensor, "rows pos vocab"]:
    """The model's own logits (head, caps and scales included), in float32."""
    output = target.model(input_ids=ids.to(target.model.device), use_cache=False)
    return output.logits.float()
