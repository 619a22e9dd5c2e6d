"""Next-token cross-entropy over a large vocabulary, a chunk of positions at a time."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ unembedding.T`; never holds all logits at once.

    The gradient is made in the forward pass, while a chunk's probabilities are in cache: one
    softmax serves both the loss and the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "positions width"],
        unembedding: Float[Tensor, "vocab width"],
        labels: Int[Tensor, " positions"],
        chunk: int,
    ) -> Float[Tensor, ""]:
        count = hidden.shape[0]
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros_like(unembedding)
        loss = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, count, chunk):
            rows, targets = hidden[start : start + chunk], labels[start : start + chunk, None]
            probabilities = torch.softmax((rows @ unembedding.T).float(), -1)
            # the smallest normal float keeps a wholly wrong prediction finite (87 nats)
            loss -= probabilities.gather(1, targets).clamp_min(1.2e-38).log().sum()
            probabilities.scatter_add_(
                1, targets, torch.full(targets.shape, -1.0, device=hidden.device)
            )
            gradient = probabilities.to(hidden.dtype)
            hidden_gradient[start : start + chunk] = gradient @ unembedding
            weight_gradient += gradient.T @ rows
        ctx.save_for_backward(hidden_gradient / count, weight_gradient / count)
        return loss / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * grad, weight_gradient * grad, None, None


def chunked_cross_entropy(
    hidden: Float[Tensor, "positions width"],
    unembedding: Float[Tensor, "vocab width"],
    labels: Int[Tensor, " positions"],
    chunk: int = 512,
) -> Float[Tensor, ""]:
    """Mean next-token cross-entropy in nats, with gradients for hidden states and unembedding.

    Only a float32 or bfloat16 scalar factor may be applied to the result before `backward`.
    """
    return _ChunkedCrossEntropy.apply(hidden, unembedding.to(hidden.dtype), labels, chunk)
