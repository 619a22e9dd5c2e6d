"""Log of the partition sum over a large vocabulary, a tile of the logits at a time.

Cross-entropy and KL both follow from it without ever holding all logits: with h the hidden state,
E the output embedding, b its bias and p the clean model's probabilities,

    CE(y) = lse(h E^T + b) - h . E_y - b_y
    KL(p || q) = sum p (ln p - b) - h . (p E) + lse(h E^T + b)

so that the clean side of the KL is one vector (p E) and one number a position. The sum is taken
over the vocabulary a tile at a time, so that a tile is still in the cache when its exponentials are
taken; where these are out of a float's range, with a running maximum (Milakov and Gimelshein 2018,
"Online normalizer calculation for softmax").
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_TILE_BYTES = 2**19  # of logits: with the words of a tile, within a core's second-level cache
_TILE_BYTES_ELSEWHERE = 2**28  # a GPU wants few and large products instead
_POSITIONS = 256  # of a tile on the CPU
# of a sum of exponentials: e^-40 is far above what float32 drops, and products with e^60 are finite
_LEAST, _MOST = 4e-18, 1e26


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
        tiles = _Tiles(hidden[part], embedding, bias, words)
        mine = None if means is None else means[part]
        found = tiles.sum(mine) if hidden.device.type == "cpu" else None
        log_partition[part] = tiles.sum_with_maximum(mine) if found is None else found
    return log_partition, means


class _Tiles(NamedTuple):
    """Some positions against the whole vocabulary, `words` of it at a time."""

    states: Float[Tensor, "positions width"]
    embedding: Float[Tensor, "vocab width"]
    bias: Float[Tensor, " vocab"] | None
    words: int

    def _logits(self) -> Iterator[tuple[Float[Tensor, "positions words"], Tensor]]:
        for first in range(0, len(self.embedding), self.words):
            tile = slice(first, first + self.words)
            bias = None if self.bias is None else self.bias[tile]
            yield F.linear(self.states, self.embedding[tile], bias), self.embedding[tile]

    def sum(self, means: Float[Tensor, "positions width"] | None) -> Tensor | None:
        """ln of the sum of the exponentials as they are, with p E put into `means`.

        None where a float cannot hold them: above its range, or so small that some were lost.
        Saves two passes over the logits: the maximum and its subtraction.
        """
        total = self.states.new_zeros(self.states.shape[0])
        for logits, embedding in self._logits():
            powers = logits.exp_()
            total += powers.sum(-1)
            if means is not None:
                means.addmm_(powers, embedding)
        least, most = (value.item() for value in total.aminmax())
        if not (least > _LEAST and most < _MOST):  # as written, a NaN is out of range
            return None
        if means is not None:
            means.div_(total[:, None])
        return total.log_()

    def sum_with_maximum(self, means: Float[Tensor, "positions width"] | None) -> Tensor:
        """The same with the largest logit taken away first, for any logits."""
        top = self.states.new_full((self.states.shape[0], 1), -torch.inf)
        total = torch.zeros_like(top)
        if means is not None:
            means.zero_()
        for logits, embedding in self._logits():
            higher = torch.maximum(top, logits.amax(-1, keepdim=True))
            shrink = top.sub_(higher).exp_()
            powers = logits.sub_(higher).exp_()
            total.mul_(shrink).add_(powers.sum(-1, keepdim=True))
            if means is not None:
                means.mul_(shrink).addmm_(powers, embedding)
            top = higher
        if means is not None:
            means.div_(total)
        return (top + total.log())[:, 0]


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
