"""Both readings and the measures against plain float64 code, values and gradients."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor

from pd_finetune.decomposition.readings import Kernels, Measure, readings
from pd_finetune.decomposition.sigmoids import lower_leaky, upper_leaky

ROWS, POSITIONS, WIDTHS = 3, 5, (4, 2, 5)
C = sum(WIDTHS)
MEASURES = [Measure("smooth_l0", gamma) for gamma in (1.0, 0.1, 0.02)]
MEASURES += [Measure("p_norm", p) for p in (2.0, 1.0, 0.4)]


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x on both sides of 0 and 1 and exactly at 1, and weights of both outputs."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, POSITIONS, C, generator=g, dtype=torch.float64) * 1.5 + 0.5
    x[0, 0, 1] = 1.0
    of_ci = torch.randn(x.shape, generator=g, dtype=torch.float64)
    of_mean = torch.randn(C, generator=g, dtype=torch.float64)
    assert min((x < 0).sum(), (x > 1).sum(), ((x > 0) & (x < 1)).sum()) > 10
    return x.to(dtype).requires_grad_(True), of_ci.to(dtype), of_mean.to(dtype)


def plain(x: Tensor, measure: Measure) -> tuple[Tensor, Tensor]:
    upper = upper_leaky(x)
    if measure.kind == "p_norm":
        return lower_leaky(x), (upper + 1e-12).pow(measure.value).mean((0, 1))
    square = measure.value**2
    return lower_leaky(x), (upper**2 / (upper**2 + square)).mean((0, 1))


def whole(
    x: Tensor, of_ci: Tensor, of_mean: Tensor, measure: Measure, kernels: Kernels
) -> tuple[Tensor, Tensor, Tensor]:
    ci, means = readings(x, WIDTHS, measure, kernels)
    assert [part.shape[-1] for part in ci] == list(WIDTHS)
    together = torch.cat(ci, -1)
    (grad,) = torch.autograd.grad((together * of_ci).sum() + (means * of_mean).sum(), x)
    return together, means, grad


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: f"{m.kind} {m.value}")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_gradients(measure: Measure, dtype: torch.dtype) -> None:
    x, of_ci, of_mean = inputs(torch.float64)
    ci, means = plain(x, measure)
    (grad,) = torch.autograd.grad((ci * of_ci).sum() + (means * of_mean).sum(), x)
    found = whole(*inputs(dtype), measure, Kernels())
    tolerance = 1e-7 if dtype == torch.float64 else 4e-6  # the slope 0.01 is a float32
    for mine, theirs in zip(found, (ci, means, grad), strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=tolerance, rtol=tolerance)


def test_an_importance_of_0_has_no_slope_but_the_leak() -> None:
    x = torch.zeros(1, 2, 1, requires_grad=True)
    for measure in MEASURES:
        (ci,), means = readings(x, [1], measure, Kernels())
        upward = torch.tensor([[[-1.0], [1.0]]])
        (grad,) = torch.autograd.grad((ci * upward).sum() + means.sum(), x)
        torch.testing.assert_close(grad, torch.tensor([[[-0.01], [0.0]]]))


def test_means_alone_and_importances_alone() -> None:
    """A sum of one output's gradients has nothing of the other's."""
    x, of_ci, of_mean = inputs(torch.float64)
    measure = MEASURES[1]
    ci, means = readings(x, WIDTHS, measure, Kernels())
    one, other = plain(x, measure)
    for mine, theirs in (
        ((torch.cat(ci, -1) * of_ci).sum(), (one * of_ci).sum()),
        ((means * of_mean).sum(), (other * of_mean).sum()),
    ):
        (actual,) = torch.autograd.grad(mine, x, retain_graph=True)
        (expected,) = torch.autograd.grad(theirs, x, retain_graph=True)
        torch.testing.assert_close(actual, expected, atol=1e-9, rtol=1e-7)


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="inductor needs a C++ compiler",
)
def test_compiled_kernels_equal_the_eager_ones() -> None:
    for measure in (MEASURES[1], MEASURES[-1]):
        results = [
            whole(*inputs(torch.float32), measure, kernels)
            for kernels in (Kernels(compiled=True), Kernels())
        ]
        for compiled, eager in zip(*results, strict=True):
            torch.testing.assert_close(compiled, eager, atol=2e-6, rtol=1e-5)
