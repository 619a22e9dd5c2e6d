"""Log of the partition sum over a large vocabulary, a tile of the logits at a time.

A tile is small enough to be in the cache still when its exponentials are taken. The sum is that of
Milakov and Gimelshein 2018, "Online normalizer calculation for softmax": with a running maximum.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_TILE_BYTES = 2**19  # of logits: with the words of a tile, within a core's second-level cache
_TILE_BYTES_ELSEWHERE = 2**28  # a GPU wants few and large products instead
_POSITIONS = 256  # of a tile on the CPU
_NO_SHIFT = 40.0  # where the largest logit is nearer to 0, a float holds exponentials as they are


def partition_and_mean(
    hidden: Float[Tensor, "positions width"],
    embedding: Float[Tensor, "vocab width"],
    bias: Float[Tensor, " vocab"] | None = None,
    want_mean: bool = True,
) -> tuple[Float[Tensor, " positions"], Float[Tensor, "positions width"]]:
    """ln sum_v exp(h . E_v + b_v), and the mean embedding p E, which is its gradient in h.

    Args:
        want_mean: it takes a second product as large as the first; unwanted, it is 0.
    """
    count = hidden.shape[0]
    on_cpu = hidden.device.type == "cpu"
    rows = max(1, min(_POSITIONS, count) if on_cpu else count)
    words = max(1, (_TILE_BYTES if on_cpu else _TILE_BYTES_ELSEWHERE) // (4 * rows))
    partition, means = hidden.new_empty(count), torch.zeros_like(hidden)
    for start in range(0, count, rows):
        states, mean = hidden[start : start + rows], means[start : start + rows]
        top = states.new_full((len(states), 1), -torch.inf)
        shift, total = top, torch.zeros_like(top)
        for first in range(0, len(embedding), words):
            tile = slice(first, first + words)
            logits = F.linear(states, embedding[tile], None if bias is None else bias[tile])
            top = torch.maximum(top, logits.amax(-1, keepdim=True))
            before, shift = shift, F.hardshrink(top, _NO_SHIFT)
            shrink = (before - shift).exp_()
            powers = logits.sub_(shift).exp_()
            total.mul_(shrink).add_(powers.sum(-1, keepdim=True))
            if want_mean:
                mean.mul_(shrink).addmm_(powers, embedding[tile])
        mean.div_(total)
        partition[start : start + rows] = (shift + total.log())[:, 0]
    return partition, means


class _LogPartition(torch.autograd.Function):
    """The gradient is made in the forward, while a tile's exponentials are at hand."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, embedding: Tensor, bias: Tensor | None
    ) -> Float[Tensor, " positions"]:
        wanted = bool(ctx.needs_input_grad[0])
        partition, gradient = partition_and_mean(hidden, embedding, bias, wanted)
        if wanted:
            ctx.save_for_backward(gradient)
        return partition

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad[:, None], None, None


def log_partition(
    hidden: Float[Tensor, "positions width"],
    embedding: Float[Tensor, "vocab width"],
    bias: Float[Tensor, " vocab"] | None = None,
) -> Float[Tensor, " positions"]:
    """ln sum_v exp(h . E_v + b_v), with gradients for `hidden` alone."""
    return _LogPartition.apply(hidden, embedding, bias)
