"""Terms of the decomposition loss: masks, importance minimality, frequency, faithfulness.

Masks and the per-subcomponent minimality statistic read the same large tensor (pre-sigmoid causal
importances, tokens x subcomponents), so one autograd function makes both and its hand-written
backward reads it once more. The arithmetic stands in two plain functions that may be compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.sigmoids import LEAK, lower_leaky, upper_leaky
from pd_finetune.decomposition.sites import weight_at


def _forward(x: Tensor, r: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    ci = x.clamp(0.0, 1.0)
    upper = torch.where(x > 1, 1 + LEAK * (x - 1), ci)
    squared = upper * upper
    return ci + r * (1 - ci), (squared / (squared + gamma * gamma)).flatten(0, -2).mean(0)


def _backward(
    x: Tensor, r: Tensor, gamma: Tensor, grad_mask: Tensor, grad_mean: Tensor, count: float
) -> tuple[Tensor, Tensor]:
    ci = x.clamp(0.0, 1.0)
    grad_ci = grad_mask * (1 - r)
    lower = torch.where(x > 0, grad_ci, LEAK * grad_ci.clamp_max(0.0))
    lower = torch.where(x > 1, 0.0, lower)
    upper = torch.where(x > 1, 1 + LEAK * (x - 1), ci)
    bottom = upper * upper + gamma * gamma
    slope = torch.where(x > 1, LEAK, torch.where(x > 0, 1.0, 0.0))
    smooth = 2 * upper * gamma * gamma / (bottom * bottom) * slope
    return lower + smooth * (grad_mean / count), grad_mask * (1 - ci)


class Kernels:
    """The two elementwise functions, compiled by inductor when asked (a minute, once)."""

    def __init__(self, compiled: bool = False) -> None:
        wrap: Callable[..., Any] = torch.compile if compiled else lambda function: function
        self.forward: Callable[..., tuple[Tensor, Tensor]] = wrap(_forward)
        self.backward: Callable[..., tuple[Tensor, Tensor]] = wrap(_backward)


class _MasksAndSmoothL0(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, r: Tensor, gamma: Tensor, kernels: Kernels) -> Any:
        ctx.save_for_backward(x, r, gamma)
        ctx.kernels = kernels
        return kernels.forward(x, r, gamma)

    @staticmethod
    def backward(ctx: Any, grad_mask: Tensor, grad_mean: Tensor) -> Any:
        x, r, gamma = ctx.saved_tensors
        count = float(x.numel() // x.shape[-1])
        grad_x, grad_r = ctx.kernels.backward(x, r, gamma, grad_mask, grad_mean, count)
        return grad_x, grad_r if ctx.needs_input_grad[1] else None, None, None


def masks_and_smooth_l0(
    x: Float[Tensor, "rows pos C"],
    r: Float[Tensor, "rows pos C"],
    gamma: Float[Tensor, ""],
    kernels: Kernels,
) -> tuple[Float[Tensor, "rows pos C"], Float[Tensor, " C"]]:
    """Masks `g + (1 - g) r` and the mean over tokens of smooth-L0 `g^2 / (g^2 + gamma^2)`.

    Masks read the lower-leaky `g`, the mean the upper-leaky one; `x` is pre-sigmoid.
    """
    return _MasksAndSmoothL0.apply(x, r, gamma, kernels)


def masks_and_p_norm(
    x: Float[Tensor, "rows pos C"], r: Float[Tensor, "rows pos C"], p: float, eps: float = 1e-12
) -> tuple[Float[Tensor, "rows pos C"], Float[Tensor, " C"]]:
    """Masks as above and `p_norm_means`: the paper's minimality."""
    g = lower_leaky(x)
    return g + (1 - g) * r, p_norm_means(x, p, eps)


def p_norm_means(x: Float[Tensor, "rows pos C"], p: float, eps: float = 1e-12) -> Tensor:
    """[C]: mean over tokens of `(g + eps)^p`, g the upper-leaky reading of the pre-sigmoid x."""
    return (upper_leaky(x) + eps).pow(p).flatten(0, -2).mean(0)


def smooth_l0_means(x: Float[Tensor, "rows pos C"], gamma: float) -> Float[Tensor, " C"]:
    """Mean over tokens of smooth-L0, as `masks_and_smooth_l0` gives it, without masks."""
    squared = upper_leaky(x).square()
    return (squared / (squared + gamma * gamma)).flatten(0, -2).mean(0)


def p_norm_minimality(means: Float[Tensor, " C"], tokens: int, beta: float) -> Float[Tensor, ""]:
    """Sum over subcomponents of `mean (1 + beta log2(1 + sum over tokens))` (VPD paper)."""
    return (means * (1 + beta * torch.log2(1 + means * tokens))).sum()


class FrequencyPenalty(nn.Module):
    """`f log2(1 + a f)` summed over subcomponents, f a debiased running mean of smooth-L0.

    The gradient flows through the present batch alone, with the penalty's slope taken at the
    running mean: a batch of a thousand tokens is too small to tell a frequency of 1e-4.
    """

    def __init__(self, C: int, scale: float, half_life_steps: float) -> None:
        super().__init__()
        self.scale, self.decay = scale, 0.5 ** (1 / half_life_steps)
        self.mean: Tensor
        self.weight: Tensor
        self.register_buffer("mean", torch.zeros(C))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, means: Float[Tensor, " C"], observe: bool = True) -> Float[Tensor, ""]:
        """The penalty; with `observe` the batch's means enter the running ones (once a step)."""
        with torch.no_grad():
            if observe:
                self.mean.lerp_(means.detach().float(), 1 - self.decay)
                self.weight.lerp_(torch.ones_like(self.weight), 1 - self.decay)
            f = self.mean / self.weight
            inner = 1 + self.scale * f
            slope = torch.log2(inner) + self.scale * f / (inner * math.log(2))
            value = (f * torch.log2(inner)).sum()
        surrogate = (means * slope).sum()
        return value + surrogate - surrogate.detach()


def faithfulness(
    components: Subcomponents, model: nn.Module, kind: str = "relative"
) -> Float[Tensor, ""]:
    """How far V U is from W: mean over sites of ||Delta||^2/||W||^2, or the sum over all entries.

    Args:
        kind: "relative" (current recipe), or "entries": all ||Delta||^2 / all entries (paper).
    """
    squares, sizes, norms = [], [], []
    for name, site in components.sites.items():
        weight = weight_at(model, site)
        squares.append(components.delta(model, name).float().square().sum())
        sizes.append(weight.numel())
        norms.append(weight.float().square().sum())
    if kind == "entries":
        return torch.stack(squares).sum() / sum(sizes)
    return (torch.stack(squares) / torch.stack(norms)).mean()
