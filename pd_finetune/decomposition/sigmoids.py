"""The two leaky readings of a causal-importance output (SPD, arXiv:2506.20790, section on CI).

Both are clamps to [0, 1] whose gradients leak, so that a subcomponent that is off or saturated can
come back. `leak` is 0.01 in every published run.
"""

from typing import Any

import torch
from torch import Tensor

LEAK = 0.01
aten = torch.ops.aten


class _LowerLeaky(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0.0, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return lower_leaky_gradient(x, grad)


def lower_leaky_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of `lower_leaky`: g in (0, 1], leak * min(g, 0) at or below 0, nothing above 1.

    Written without comparisons: on CPUs those, and `where`, are several times slower.
    """
    falling = grad.clamp_max(0.0)
    leaking = falling - aten.threshold_backward(falling, x, 0.0)
    return torch.add(inside(x, grad), leaking, alpha=LEAK)


def inside(x: Tensor, grad: Tensor) -> Tensor:
    """`grad` where x is in (0, 1], else 0."""
    # both ends are excluded there; the next number above 1 lets 1 itself pass
    return aten.hardtanh_backward(grad, x, 0.0, 1.0 + torch.finfo(x.dtype).eps)


def lower_leaky(x: Tensor) -> Tensor:
    """clamp(x, 0, 1); below 0 the gradient passes, times 0.01, only where descent raises x."""
    return _LowerLeaky.apply(x)


def upper_leaky(x: Tensor) -> Tensor:
    """0 below 0, x in [0, 1], 1 + 0.01 (x - 1) above; used in the minimality loss only."""
    return torch.add(x.clamp(0.0, 1.0), torch.relu(x - 1), alpha=LEAK)


def upper_leaky_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of `upper_leaky`: g in (0, 1], 0.01 g above 1, nothing at or below 0."""
    return torch.add(inside(x, grad), aten.threshold_backward(grad, x, 1.0), alpha=LEAK)
