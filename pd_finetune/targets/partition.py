"""Log of the partition sum over a large vocabulary, a chunk of positions at a time.

Cross-entropy and KL both follow from it without ever holding all logits: with h the hidden state,
E the output embedding and p the clean model's probabilities,

    CE(y) = lse(h E^T) - h . E_y            KL(p || q) = sum p ln p - h . (p E) + lse(h E^T)

so that the clean side of the KL term is one vector (p E) and one number a position.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_CHUNK = 256  # positions: their logits stay in a core's cache at 4,096 tokens


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "positions width"],
        embedding: Float[Tensor, "vocab width"],
    ) -> Float[Tensor, " positions"]:
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        result = hidden.new_empty(hidden.shape[0])
        for start in range(0, hidden.shape[0], _CHUNK):
            part = slice(start, start + _CHUNK)
            logits = hidden[part] @ embedding.T
            top = logits.amax(-1, keepdim=True)
            weights = logits.sub_(top).exp_()
            total = weights.sum(-1, keepdim=True)
            if gradient is not None:
                # d lse / d hidden: the mean embedding under the predictions, while they are here
                gradient[part] = (weights @ embedding) / total
            result[part] = (top + total.log())[:, 0]
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad[:, None], None


def log_partition(
    hidden: Float[Tensor, "positions width"], embedding: Float[Tensor, "vocab width"]
) -> Float[Tensor, " positions"]:
    """ln sum_v exp(h . E_v) in float32, with gradients for `hidden` alone."""
    return _LogPartition.apply(hidden, embedding)


@torch.no_grad()
def mean_embedding_and_negentropy(
    hidden: Float[Tensor, "positions width"], embedding: Float[Tensor, "vocab width"]
) -> tuple[Float[Tensor, "positions width"], Float[Tensor, " positions"]]:
    """p E and sum p ln p of the predictions p = softmax(h E^T), in float32."""
    mean = torch.empty_like(hidden)
    negentropy = hidden.new_empty(hidden.shape[0])
    for start in range(0, hidden.shape[0], _CHUNK):
        part = slice(start, start + _CHUNK)
        logs = torch.log_softmax(hidden[part] @ embedding.T, -1)
        probabilities = logs.exp()
        mean[part] = probabilities @ embedding
        negentropy[part] = (probabilities * logs).sum(-1)
    return mean, negentropy
