"""Every loss term against plain float64 code, values and gradients."""

from __future__ import annotations

import copy
import math
import shutil

import pytest
import torch
from torch import Tensor, nn

from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.losses import (
    FrequencyPenalty,
    Kernels,
    faithfulness,
    masks_and_p_norm,
    masks_and_smooth_l0,
    p_norm_minimality,
)
from pd_finetune.decomposition.sigmoids import lower_leaky, upper_leaky
from pd_finetune.decomposition.sites import find_sites
from tests.decomposition import parts

ROWS, POSITIONS, C = 3, 5, 11


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x on both sides of 0 and 1 and exactly there, r in [0, 1], weights of both outputs."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, POSITIONS, C, generator=g, dtype=torch.float64) * 1.5 + 0.5
    x[0, 0, :2] = torch.tensor([0.0, 1.0], dtype=torch.float64)
    r = torch.rand(x.shape, generator=g, dtype=torch.float64)
    of_mask = torch.randn(x.shape, generator=g, dtype=torch.float64)
    of_mean = torch.randn(C, generator=g, dtype=torch.float64)
    assert min((x < 0).sum(), (x > 1).sum(), ((x > 0) & (x < 1)).sum()) > 10
    return tuple(t.to(dtype) for t in (x, r, of_mask, of_mean))  # type: ignore[return-value]


def plain_smooth_l0(x: Tensor, r: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    g, upper = lower_leaky(x), upper_leaky(x)
    return g + (1 - g) * r, (upper**2 / (upper**2 + gamma**2)).mean((0, 1))


def gradients(
    outputs: tuple[Tensor, Tensor], leaves: list[Tensor], of_mask: Tensor, of_mean: Tensor
) -> tuple[Tensor, ...]:
    return torch.autograd.grad((outputs[0] * of_mask).sum() + (outputs[1] * of_mean).sum(), leaves)


@pytest.mark.parametrize("gamma", [1.0, 0.1, 0.02])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_masks_and_smooth_l0(gamma: float, dtype: torch.dtype) -> None:
    x, r, of_mask, of_mean = inputs(torch.float64)
    leaves = [x.requires_grad_(True), r.requires_grad_(True)]
    expected = plain_smooth_l0(x, r, gamma)
    expected_gradients = gradients(expected, leaves, of_mask, of_mean)
    x, r, of_mask, of_mean = (t.detach().to(dtype) for t in (x, r, of_mask, of_mean))
    leaves = [x.requires_grad_(True), r.requires_grad_(True)]
    actual = masks_and_smooth_l0(x, r, torch.tensor(gamma, dtype=dtype), Kernels())
    actual_gradients = gradients(actual, leaves, of_mask, of_mean)
    tolerance = 1e-7 if dtype == torch.float64 else 2e-6  # the slope 0.01 is a float32
    for mine, theirs in zip(
        (*actual, *actual_gradients), (*expected, *expected_gradients), strict=True
    ):
        torch.testing.assert_close(mine.double(), theirs, atol=tolerance, rtol=tolerance)


def test_one_unused_output_has_no_gradient_of_its_own() -> None:
    """The separate recipe drops the second pass's mean; constant sources ask for no gradient."""
    x, r, of_mask, of_mean = inputs(torch.float64)
    gamma = torch.tensor(0.3, dtype=torch.float64)
    x.requires_grad_(True)
    for used, weight in ((0, of_mask), (1, of_mean)):
        (actual,) = torch.autograd.grad(
            (masks_and_smooth_l0(x, r, gamma, Kernels())[used] * weight).sum(), x
        )
        (expected,) = torch.autograd.grad((plain_smooth_l0(x, r, 0.3)[used] * weight).sum(), x)
        torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-7)


@pytest.mark.parametrize("p", [2.0, 1.0, 0.4])
def test_masks_and_p_norm(p: float) -> None:
    x, r, of_mask, of_mean = inputs(torch.float64)
    leaves = [x.requires_grad_(True), r.requires_grad_(True)]
    actual = masks_and_p_norm(x, r, p)
    grad_x, grad_r = gradients(actual, leaves, of_mask, of_mean)
    # by cases, without the library's clamps
    with torch.no_grad():
        g = x.clip(0, 1)
        upper = torch.where(x > 1, 1 + 0.01 * (x - 1), g)
        torch.testing.assert_close(actual[0], r + g * (1 - r), atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(actual[1], (upper + 1e-12).pow(p).mean((0, 1)))
        torch.testing.assert_close(grad_r, of_mask * (1 - g), atol=1e-12, rtol=1e-12)
        into_g = of_mask * (1 - r)
        of_masks = torch.where(x > 0, into_g, 0.01 * into_g.clip(max=0)) * (x <= 1)
        slope = torch.where(x > 1, 0.01, 1.0) * (x > 0)
        of_means = of_mean * p * (upper + 1e-12).pow(p - 1) * slope / (ROWS * POSITIONS)
        off_zero = x != 0  # at 0 itself the p-norm has no slope for p < 1
        torch.testing.assert_close(
            grad_x[off_zero], (of_masks + of_means)[off_zero], atol=1e-9, rtol=1e-9
        )
    assert grad_x.isfinite().all()


def test_p_norm_minimality_is_the_papers_formula() -> None:
    _, _, _, values = inputs(torch.float64)
    means = values.abs()
    tokens, beta = 37, 0.5
    expected = sum(m * (1 + beta * math.log2(1 + m * tokens)) for m in means.tolist())
    assert p_norm_minimality(means, tokens, beta).item() == pytest.approx(expected, rel=1e-12)
    assert p_norm_minimality(means, tokens, 0.0).item() == pytest.approx(means.sum().item())


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="inductor needs a C++ compiler",
)
def test_compiled_kernels_equal_the_eager_ones() -> None:
    gamma, results = torch.tensor(0.05), []
    for kernels in (Kernels(compiled=True), Kernels()):
        x, r, of_mask, of_mean = inputs(torch.float32)
        leaves = [x.requires_grad_(True), r.requires_grad_(True)]
        outputs = masks_and_smooth_l0(x, r, gamma, kernels)
        results.append((*outputs, *gradients(outputs, leaves, of_mask, of_mean)))
    for compiled, eager in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, atol=1e-6, rtol=1e-5)


def test_frequency_penalty_value_and_slope() -> None:
    scale, half_life = 50.0, 3.0
    penalty = FrequencyPenalty(C, scale, half_life)
    decay, running = 0.5 ** (1 / half_life), torch.zeros(C, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    for step in range(1, 8):
        means = torch.rand(C, generator=generator).requires_grad_(True)
        value = penalty(means)
        (slope,) = torch.autograd.grad(value, means)
        running = decay * running + (1 - decay) * means.detach().double()
        f = (running / (1 - decay**step)).requires_grad_(True)  # debiased
        expected = (f * torch.log2(1 + scale * f)).sum()
        (expected_slope,) = torch.autograd.grad(expected, f)
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
        torch.testing.assert_close(slope.double(), expected_slope, rtol=1e-5, atol=1e-6)
        if step == 1:  # one batch: the running mean is that batch's
            torch.testing.assert_close(f.detach().float(), means.detach())
    assert set(penalty.state_dict()) == {"mean", "weight"}


def test_running_frequency_halves_in_its_half_life() -> None:
    penalty = FrequencyPenalty(1, 10.0, 4.0)
    penalty(torch.ones(1))
    before = penalty.mean.item()
    for _ in range(4):
        penalty(torch.zeros(1))
    assert penalty.mean.item() == pytest.approx(before / 2, rel=1e-5)


def two_sites() -> tuple[nn.Module, Subcomponents]:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)).double()
    sites = find_sites(model, {"0": 2, "1": 3})
    return model, parts.random_components(sites).double()


def test_faithfulness_of_both_kinds() -> None:
    model, components = two_sites()
    squares, norms, entries = [], [], 0
    for name, module in (("0", model[0]), ("1", model[1])):
        V, U, W = components.V(name).tolist(), components.U(name).tolist(), module.weight.tolist()
        squares.append(0.0)
        for i, row in enumerate(W):
            for j, w in enumerate(row):
                whole = sum(V[j][c] * U[c][i] for c in range(len(U)))
                squares[-1] += (w - whole) ** 2
                entries += 1
        norms.append(sum(w * w for row in W for w in row))
    # the terms are summed in float32
    relative = sum(s / n for s, n in zip(squares, norms, strict=True)) / 2
    assert faithfulness(components, model).item() == pytest.approx(relative, rel=1e-6)
    assert faithfulness(components, model, "entries").item() == pytest.approx(
        sum(squares) / entries, rel=1e-6
    )


@pytest.mark.parametrize("kind", ["relative", "entries"])
def test_descent_on_faithfulness_shrinks_delta(kind: str) -> None:
    model, components = two_sites()
    before = copy.deepcopy(components)
    faithfulness(components, model, kind).backward()
    with torch.no_grad():
        for parameter in components.parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0
            parameter -= 1e-3 * parameter.grad
        for name in components.sites:
            new = components.delta(model, name).square().sum()
            assert new < before.delta(model, name).square().sum()
