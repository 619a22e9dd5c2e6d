"""The two leaky readings of a causal-importance output (SPD, arXiv:2506.20790, section on CI).

Both are clamps to [0, 1] whose gradients leak, so that a subcomponent that is off or saturated can
come back. `LEAK` is 0.01 in every published run. The lower-leaky reading g goes into masks; of the
upper-leaky one only a mean over tokens is wanted.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LEAK = 0.01
# (0 + eps)^p has a slope at g = 0
_EPS = 1e-12


class _LowerLeaky(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0.0, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, grad * (x <= 1), LEAK * grad.clamp_max(0.0))


def lower_leaky(x: Tensor) -> Tensor:
    """clamp(x, 0, 1); below 0 the gradient passes, times 0.01, only where descent raises x."""
    return _LowerLeaky.apply(x)


def upper_leaky(x: Tensor) -> Tensor:
    """0 below 0, x in [0, 1], 1 + 0.01 (x - 1) above; used in the minimality loss only."""
    return torch.relu(x) - (1 - LEAK) * torch.relu(x - 1)


class Readings(NamedTuple):
    """What a step takes from the causal-importance outputs.

    Args:
        ci: causal importances g, lower-leaky, in the format of the outputs.
        means: of the measure of the upper-leaky reading over tokens, in float32.
        important: how many g are above 0.
    """

    ci: Float[Tensor, "rows pos C"]
    means: Float[Tensor, " C"]
    important: Float[Tensor, ""]


def readings(x: Float[Tensor, "rows pos C"], measure: str, value: Float[Tensor, ""]) -> Readings:
    """Importances, and how many of them there are on the mean over tokens.

    Args:
        x: outputs of the causal-importance function before any sigmoid.
        measure: `smooth_l0`: g^2 / (g^2 + value^2), or `p_norm`: (g + 1e-12)^value.
    """
    upper = upper_leaky(x.float())
    if measure == "smooth_l0":
        square = upper * upper
        # 1 - gamma^2 / (g^2 + gamma^2) would lose digits near 0
        counted = square / (square + value * value)
    else:
        counted = torch.exp(value * torch.log(upper + _EPS))
    return Readings(lower_leaky(x), counted.flatten(0, -2).mean(0), (x > 0).sum())
