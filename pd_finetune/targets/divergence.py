"""KL(clean || masked) from hidden states, the vocabulary taken a chunk of positions at a time."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class _ChunkedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, clean: Tensor, weight: Tensor, bias: Tensor | None, chunk: int
    ) -> Tensor:
        values, gradients = [], []
        for states, clean_states in zip(hidden.split(chunk), clean.split(chunk), strict=True):
            log_p = torch.log_softmax(nn.functional.linear(clean_states, weight, bias).float(), -1)
            log_q = torch.log_softmax(nn.functional.linear(states, weight, bias).float(), -1)
            p = log_p.exp()
            values.append((p * (log_p - log_q)).sum(-1))
            gradients.append((log_q.exp() - p).to(weight.dtype) @ weight)
        ctx.save_for_backward(torch.cat(gradients).to(hidden.dtype))
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * grad[:, None].to(gradient.dtype), None, None, None, None


def divergence_from_clean(
    hidden: Float[Tensor, "*positions width"],
    clean: Float[Tensor, "*positions width"],
    head: nn.Module,
    chunk: int = 256,
) -> Float[Tensor, "*positions"]:
    """KL(clean || masked) in nats per position, in float32; gradients reach `hidden` alone.

    Args:
        hidden: last hidden states of the masked forward.
        clean: those of the target's own forward.
        head: the target's output embedding, a linear layer.
    """
    weight, bias = head.weight, getattr(head, "bias", None)
    assert isinstance(weight, Tensor)
    bias = None if bias is None else bias.to(hidden.dtype)
    flat = _ChunkedDivergence.apply(
        hidden.flatten(0, -2), clean.flatten(0, -2), weight.to(hidden.dtype), bias, chunk
    )
    return flat.view(hidden.shape[:-1])
