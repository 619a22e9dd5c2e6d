"""Log of the partition sum over a large vocabulary, a tile of the logits at a time.

Cross-entropy and KL both follow from it without ever holding all logits: with h the hidden state,
E the output embedding, b its bias and p the clean model's probabilities,

    CE(y) = lse(h E^T + b) - h . E_y - b_y
    KL(p || q) = sum p (ln p - b) - h . (p E) + lse(h E^T + b)

so that the clean side of the KL is one vector (p E) and one number a position. The sum is taken
over the vocabulary with a running maximum (Milakov and Gimelshein 2018, "Online normalizer
calculation for softmax"), so that a tile is still in the cache when its exponentials are taken.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_TILE_BYTES = 2**19  # of logits: with the words of a tile, within a core's second-level cache
_TILE_BYTES_ELSEWHERE = 2**28  # a GPU wants few and large products instead
_POSITIONS = 256  # of a tile on the CPU


def _tile(hidden: Tensor) -> tuple[int, int]:
    """Positions and words of a tile."""
    if hidden.device.type != "cpu":
        return hidden.shape[0], max(1, _TILE_BYTES_ELSEWHERE // (4 * max(1, hidden.shape[0])))
    rows = max(1, min(_POSITIONS, hidden.shape[0]))
    return rows, max(1, _TILE_BYTES // (4 * rows))


def partition_and_mean(
    hidden: Float[Tensor, "positions width"],
    embedding: Float[Tensor, "vocab width"],
    bias: Float[Tensor, " vocab"] | None = None,
    mean: bool = True,
) -> tuple[Float[Tensor, " positions"], Float[Tensor, "positions width"] | None]:
    """ln sum_v exp(h . E_v + b_v), and the mean embedding p E, which is its gradient in h.

    Args:
        mean: whether p E is wanted; it takes a second product as large as the first.
    """
    log_partition = hidden.new_empty(hidden.shape[0])
    means = torch.zeros_like(hidden) if mean else None
    rows, words = _tile(hidden)
    for start in range(0, hidden.shape[0], rows):
        part = slice(start, start + rows)
        states = hidden[part]
        top = hidden.new_full((states.shape[0], 1), -torch.inf)
        total = hidden.new_zeros(states.shape[0], 1)
        for first in range(0, len(embedding), words):
            tile = slice(first, first + words)
            logits = F.linear(states, embedding[tile], None if bias is None else bias[tile])
            higher = torch.maximum(top, logits.amax(-1, keepdim=True))
            shrink = top.sub_(higher).exp_()
            powers = logits.sub_(higher).exp_()
            total.mul_(shrink).add_(powers.sum(-1, keepdim=True))
            if means is not None:
                means[part].mul_(shrink).addmm_(powers, embedding[tile])
            top = higher
        log_partition[part] = (top + total.log())[:, 0]
        if means is not None:
            means[part].div_(total)
    return log_partition, means


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "positions width"],
        embedding: Float[Tensor, "vocab width"],
        bias: Float[Tensor, " vocab"] | None,
    ) -> Float[Tensor, " positions"]:
        wanted = bool(ctx.needs_input_grad[0])
        result, gradient = partition_and_mean(hidden, embedding, bias, wanted)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return result

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


@torch.no_grad()
def mean_embedding_and_negentropy(
    hidden: Float[Tensor, "positions width"],
    embedding: Float[Tensor, "vocab width"],
    bias: Float[Tensor, " vocab"] | None = None,
) -> tuple[Float[Tensor, "positions width"], Float[Tensor, " positions"]]:
    """p E and sum p (ln p - b) of the predictions p = softmax(h E^T + b).

    The second is h . (p E) - lse, because ln p = h E^T + b - lse.
    """
    partition, mean = partition_and_mean(hidden, embedding, bias)
    assert mean is not None
    return mean, torch.linalg.vecdot(hidden, mean) - partition
