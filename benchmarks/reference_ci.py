"""The plain reference's causal-importance function and the two leaky readings of its output.

Written straight from the VPD report, and apart from `pd_finetune` on purpose: the package's own
step changes, this one is what it is measured against.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LowerLeaky(torch.autograd.Function):
    """clamp(x, 0, 1); at or below 0 the gradient passes, times 0.01, only where it is negative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0.0, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        below = torch.where(grad < 0, 0.01 * grad, torch.zeros_like(grad))
        return torch.where(x <= 0, below, torch.where(x <= 1, grad, torch.zeros_like(grad)))


def upper_leaky(x: Tensor) -> Tensor:
    """clamp(x, 0, 1) with slope 0.01 above 1."""
    return torch.where(x > 1, 1 + 0.01 * (x - 1), x.clamp(0.0, 1.0))


class Attention(nn.Module):
    """Bidirectional attention, rotary positions with base 10,000, no biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Float[Tensor, "rows pos width"]) -> Float[Tensor, "rows pos width"]:
        def heads_of(t: Tensor) -> Float[Tensor, "rows heads pos head_width"]:
            return t.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = (heads_of(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        mixed = F.scaled_dot_product_attention(rotary(q), rotary(k), v)
        return self.out_proj(mixed.transpose(1, 2).flatten(-2))


def rotary(
    t: Float[Tensor, "rows heads pos head_width"],
) -> Float[Tensor, "rows heads pos head_width"]:
    """Each position's vector, turned by angles that grow with the position."""
    half = t.shape[-1] // 2
    rates = 10_000.0 ** (-torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = torch.arange(t.shape[-2], device=t.device, dtype=torch.float32)[:, None] * rates
    cos, sin = angles.cos().to(t.dtype), angles.sin().to(t.dtype)
    first, second = t[..., :half], t[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_width), nn.GELU(), nn.Linear(mlp_width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(F.rms_norm(x, x.shape[-1:]))
        return x + self.mlp(F.rms_norm(x, x.shape[-1:]))


class ReferenceCI(nn.Module):
    """Distinct inputs, RMS-normed and concatenated -> pre-sigmoid outputs of all subcomponents.

    Args:
        d_in: total width of the distinct inputs.
        C: subcomponents in all.
    """

    def __init__(
        self, d_in: int, C: int, width: int, blocks: int, heads: int, mlp_width: int
    ) -> None:
        super().__init__()
        self.input_projector = nn.Linear(d_in, width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_width) for _ in range(blocks))
        self.output_head = nn.Linear(width, C)

    def forward(self, inputs: list[Float[Tensor, "rows pos _"]]) -> Float[Tensor, "rows pos C"]:
        x = self.input_projector(torch.cat([F.rms_norm(x, x.shape[-1:]) for x in inputs], -1))
        for block in self.blocks:
            x = block(x)
        return self.output_head(x)
