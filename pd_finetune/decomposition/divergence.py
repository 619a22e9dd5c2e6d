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


class _DivergenceFromMean(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        mean: Tensor,
        constant: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        chunk: int,
    ) -> Tensor:
        values = constant - torch.linalg.vecdot(hidden, mean)
        gradient = torch.empty_like(hidden)
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            logits = nn.functional.linear(hidden[part], weight, bias)
            top = logits.amax(-1, keepdim=True)
            powers = logits.sub_(top).exp_()
            total = powers.sum(-1, keepdim=True)
            values[part] += (top + total.log())[:, 0]
            gradient[part] = (powers @ weight).div_(total).sub_(mean[part])
        ctx.save_for_backward(gradient)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * grad[:, None], None, None, None, None, None


class CleanOutput:
    """A clean output with which several masked ones are compared, for half of the work of each.

    KL(p || q) = sum p log p - h . m - p . b + log sum exp(z), where z = h E^T + b are the masked
    logits and m = p E. Of the clean distribution only m and a number a position are needed.
    As a difference of numbers about as large as ln(vocabulary), it is right to some 1e-6 nats in
    float32, and of no use in bfloat16.

    Args:
        clean: last hidden states of the target's own forward.
        head: the target's output embedding, a linear layer.
    """

    def __init__(
        self, clean: Float[Tensor, "*positions width"], head: nn.Module, chunk: int | None = None
    ) -> None:
        weight, bias = head.weight, getattr(head, "bias", None)
        assert isinstance(weight, Tensor)
        self.weight, self.bias = weight.to(clean.dtype), bias
        # a chunk's logits stay in the processor's cache
        self.chunk = chunk or max(64, 2**18 // len(weight))
        flat = clean.flatten(0, -2)
        self.mean, self.constant = torch.empty_like(flat), flat.new_empty(len(flat))
        for start in range(0, len(flat), self.chunk):
            part = slice(start, start + self.chunk)
            log_p = nn.functional.linear(flat[part], self.weight, bias).log_softmax(-1)
            p = log_p.exp()
            self.mean[part] = p @ self.weight
            self.constant[part] = torch.linalg.vecdot(p, log_p if bias is None else log_p - bias)

    def divergence(self, masked: Float[Tensor, "*positions width"]) -> Float[Tensor, "*positions"]:
        """KL(clean || masked) in nats per position; gradients reach `masked` alone."""
        flat = _DivergenceFromMean.apply(
            masked.flatten(0, -2), self.mean, self.constant, self.weight, self.bias, self.chunk
        )
        return flat.view(masked.shape[:-1])
