"""Both readings of the causal-importance outputs, made in one pass over them, site by site.

The lower-leaky reading g goes into masks; of the upper-leaky one only a mean over tokens is wanted,
of smooth-L0 or of a power. The outputs [tokens, C] of all sites are the largest tensor of a step:
what is done to one site's part stays in the processor's cache, and the backward, written by hand,
reads it once more. The arithmetic stands in plain functions that may be compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pd_finetune.decomposition.sigmoids import (
    lower_leaky_gradient,
    upper_leaky,
    upper_leaky_gradient,
)


def _smooth_l0(x: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    upper = upper_leaky(x)
    bottom = torch.addcmul(gamma * gamma, upper, upper)
    # g^2 / (g^2 + gamma^2) = 1 - gamma^2 / (g^2 + gamma^2) would lose digits near 0
    return x.clamp(0.0, 1.0), (upper * upper / bottom).flatten(0, -2).mean(0)


def _smooth_l0_gradient(x: Tensor, gamma: Tensor, grad_ci: Tensor, grad_mean: Tensor) -> Tensor:
    upper, square = upper_leaky(x), gamma * gamma
    bottom = torch.addcmul(square, upper, upper)
    slope = upper / (bottom * bottom) * (grad_mean * (2 * square))
    return lower_leaky_gradient(x, grad_ci) + upper_leaky_gradient(x, slope)


# (0 + eps)^p has a slope at g = 0
_EPS = 1e-12


def _p_norm(x: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    power = torch.exp(p * torch.log(upper_leaky(x) + _EPS))
    return x.clamp(0.0, 1.0), power.flatten(0, -2).mean(0)


def _p_norm_gradient(x: Tensor, p: Tensor, grad_ci: Tensor, grad_mean: Tensor) -> Tensor:
    slope = torch.exp((p - 1) * torch.log(upper_leaky(x) + _EPS)) * (grad_mean * p)
    return lower_leaky_gradient(x, grad_ci) + upper_leaky_gradient(x, slope)


@dataclass(frozen=True)
class Measure:
    """How many subcomponents are important, as a mean over tokens: one of two statistics.

    Args:
        kind: `smooth_l0`: g^2 / (g^2 + value^2), or `p_norm`: (g + 1e-12)^value.
        value: gamma or p of this step.
    """

    kind: str
    value: float


class Kernels:
    """The elementwise functions, compiled by inductor when asked (a minute, once)."""

    def __init__(self, compiled: bool = False) -> None:
        from pd_finetune.decomposition import masked_site

        wrap: Callable[..., Any] = torch.compile if compiled else lambda function: function
        self.reading = {"smooth_l0": wrap(_smooth_l0), "p_norm": wrap(_p_norm)}
        self.gradient = {"smooth_l0": wrap(_smooth_l0_gradient), "p_norm": wrap(_p_norm_gradient)}
        self.scale = wrap(masked_site.scale)
        self.of_ci = wrap(masked_site.of_ci)


class _Readings(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, widths: Sequence[int], measure: Measure, kernels: Kernels
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x)
        ctx.widths, ctx.measure, ctx.kernels = widths, measure, kernels
        # a tensor, so that a compiled function is not made anew when it changes
        value = torch.tensor(measure.value, dtype=x.dtype, device=x.device)
        kernel = kernels.reading[measure.kind]
        ci, means = zip(*(kernel(part, value) for part in x.split(widths, -1)), strict=True)
        return *ci, torch.cat(means)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        *grad_ci, grad_means = grads
        value = torch.tensor(ctx.measure.value, dtype=x.dtype, device=x.device)
        kernel = ctx.kernels.gradient[ctx.measure.kind]
        tokens = x.numel() // x.shape[-1]
        grad = torch.empty_like(x)
        for out, part, of_ci, of_mean in zip(
            grad.split(ctx.widths, -1),
            x.split(ctx.widths, -1),
            grad_ci,
            (grad_means / tokens).split(ctx.widths),
            strict=True,
        ):
            out.copy_(kernel(part, value, of_ci, of_mean))
        return grad, None, None, None


def readings(
    x: Float[Tensor, "rows pos total_C"], widths: Sequence[int], measure: Measure, kernels: Kernels
) -> tuple[list[Float[Tensor, "rows pos C"]], Float[Tensor, " total_C"]]:
    """Causal importances g of each site (lower-leaky), and the measure's mean over tokens of the
    upper-leaky reading.

    Args:
        x: outputs of the causal-importance function before any sigmoid.
        widths: C of each site, in the order of x.
    """
    *ci, means = _Readings.apply(x, widths, measure, kernels)
    return ci, means
