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
        values = torch.empty(hidden.shape[0], device=hidden.device)
        gradient = torch.empty_like(hidden)
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            log_p = torch.log_softmax(nn.functional.linear(clean[part], weight, bias).float(), -1)
            log_q = torch.log_softmax(nn.functional.linear(hidden[part], weight, bias).float(), -1)
            p = log_p.exp()
            values[part] = torch.linalg.vecdot(p, log_p.sub_(log_q))
            gradient[part] = log_q.exp_().sub_(p).to(hidden.dtype) @ weight
        ctx.save_for_backward(gradient)
        return values

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
