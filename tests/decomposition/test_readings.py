"""Both readings and the measures against plain float64 code, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pd_finetune.decomposition.sigmoids import lower_leaky, readings, upper_leaky

ROWS, POSITIONS, C = 3, 5, 11
MEASURES = [("smooth_l0", gamma) for gamma in (1.0, 0.1, 0.02)]
MEASURES += [("p_norm", p) for p in (2.0, 1.0, 0.4)]


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x on both sides of 0 and 1 and exactly at 1, and weights of both outputs."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, POSITIONS, C, generator=g, dtype=torch.float64) * 1.5 + 0.5
    x[0, 0, 1] = 1.0
    of_ci = torch.randn(x.shape, generator=g, dtype=torch.float64)
    of_mean = torch.randn(C, generator=g, dtype=torch.float64)
    assert min((x < 0).sum(), (x > 1).sum(), ((x > 0) & (x < 1)).sum()) > 10
    return x.to(dtype).requires_grad_(True), of_ci.to(dtype), of_mean.to(dtype)


def plain(x: Tensor, measure: str, value: float) -> tuple[Tensor, Tensor]:
    upper = upper_leaky(x)
    if measure == "p_norm":
        return lower_leaky(x), (upper + 1e-12).pow(value).mean((0, 1))
    return lower_leaky(x), (upper**2 / (upper**2 + value**2)).mean((0, 1))


@pytest.mark.parametrize(("measure", "value"), MEASURES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 4e-6), (torch.bfloat16, 2e-2)])
def test_values_and_gradients(
    measure: str, value: float, dtype: torch.dtype, tolerance: float
) -> None:
    x, of_ci, of_mean = inputs(dtype)
    found = readings(x, measure, torch.tensor(value))
    assert (found.ci.dtype, found.means.dtype) == (dtype, torch.float32)
    assert found.important == (x > 0).sum()
    wide = x.detach().double().requires_grad_(True)
    ci, means = plain(wide, measure, value)
    # together and each alone: a sum of one output's gradients has nothing of the other's
    for one, other in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0)):
        loss = one * (found.ci * of_ci).sum() + other * (found.means * of_mean).sum()
        (actual,) = torch.autograd.grad(loss, x, retain_graph=True)
        loss = one * (ci * of_ci).sum() + other * (means * of_mean).sum()
        (expected,) = torch.autograd.grad(loss, wide, retain_graph=True)
        torch.testing.assert_close(actual.double(), expected, atol=tolerance, rtol=tolerance)
    for mine, theirs in ((found.ci, ci), (found.means, means)):
        torch.testing.assert_close(mine.double(), theirs, atol=tolerance, rtol=tolerance)


def test_an_importance_of_0_has_no_slope_but_the_leak() -> None:
    x = torch.zeros(1, 2, 1, requires_grad=True)
    for measure, value in MEASURES:
        found = readings(x, measure, torch.tensor(value))
        upward = torch.tensor([[[-1.0], [1.0]]])
        (grad,) = torch.autograd.grad((found.ci * upward).sum() + found.means.sum(), x)
        torch.testing.assert_close(grad, torch.tensor([[[-0.01], [0.0]]]))
