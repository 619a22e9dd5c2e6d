"""Held-out windows through the target: hidden states and logits, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pd_finetune.targets.head import has_linear_head
from pd_finetune.targets.load import Target

_LOGIT_BYTES = 2**26  # logits that one forward may hold
_ROWS_PER_THREAD = 4  # of a forward on the CPU unless told: their activations stay in the cache
_ROWS_ELSEWHERE = 32


def row_parts(target: Target, ids: Int[Tensor, "rows pos"], batch: int) -> Iterator[slice]:
    """Slices of rows: `batch` each (0: as suits the device), or fewer where logits grow too large.

    A forward's logits are held to 64 MB.
    """
    vocab = int(target.model.config.get_text_config().vocab_size)
    on_cpu = target.device.type == "cpu"
    wanted = batch or (_ROWS_PER_THREAD * torch.get_num_threads() if on_cpu else _ROWS_ELSEWHERE)
    size = max(1, min(wanted, _LOGIT_BYTES // (4 * vocab * max(1, ids.shape[1]))))
    for start in range(0, len(ids), size):
        yield slice(start, start + size)


@torch.no_grad()
def logits_of(target: Target, ids: Int[Tensor, "rows pos"]) -> Float[Tensor, "rows pos vocab"]:
    """The model's own logits (head, caps and scales included), in float32."""
    output = target.model(input_ids=ids.to(target.model.device), use_cache=False)
    return output.logits.float()


def plain_embedding(target: Target) -> Float[Tensor, "vocab width"] | None:
    """The output embedding where logits are hidden states times it and no more, else None."""
    head = target.model.get_output_embeddings()
    if not has_linear_head(target.model) or head.bias is not None:
        return None
    return head.weight.detach().float()
