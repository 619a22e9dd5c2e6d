"""Every loss term against plain float64 code, values and gradients."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.losses import (
    FrequencyPenalty,
    faithfulness,
    p_norm_minimality,
)
from pd_finetune.decomposition.sites import find_sites
from tests.decomposition import parts

C = 11


def test_p_norm_minimality_is_the_papers_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(C, generator=generator, dtype=torch.float64)
    tokens, beta = 37, 0.5
    expected = sum(m * (1 + beta * math.log2(1 + m * tokens)) for m in means.tolist())
    assert p_norm_minimality(means, tokens, beta).item() == pytest.approx(expected, rel=1e-12)
    assert p_norm_minimality(means, tokens, 0.0).item() == pytest.approx(means.sum().item())


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
