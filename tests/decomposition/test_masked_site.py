"""A site under sources and noise equals the same site under masks made beforehand, in float64."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pd_finetune.decomposition.components import SiteMask, Subcomponents
from pd_finetune.decomposition.masked_site import SourcedMask
from pd_finetune.decomposition.readings import Kernels
from pd_finetune.decomposition.sites import find_sites
from tests.decomposition import parts

ROWS, POSITIONS, C = 4, 3, 7


def made(bias: bool) -> tuple[nn.Linear, Subcomponents]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6, bias=bias)).double().requires_grad_(False)
    linear = model[0]
    assert isinstance(linear, nn.Linear)
    return linear, parts.random_components(find_sites(model, {"0": C})).double()


def leaves(hostile: int, shared: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=g, dtype=torch.float64).to(dtype)

    found = {
        "x": rand(ROWS, POSITIONS, 5) - 0.5,
        "ci": rand(ROWS, POSITIONS, C),
        "sources": rand(hostile, 1 if shared else POSITIONS, C),
        "delta": rand(ROWS, POSITIONS),
    }
    return {name: tensor.requires_grad_(True) for name, tensor in found.items()}


def outputs(
    how: str, bias: bool, hostile: int, shared: bool, route: Tensor | None, kernels: Kernels
) -> tuple[Tensor, ...]:
    """Output, then the gradients of a random function of it by every leaf and by V and U."""
    linear, components = made(bias)
    by = leaves(hostile, shared, torch.float64)
    noise = torch.rand(
        ROWS - hostile,
        POSITIONS,
        C,
        generator=torch.Generator().manual_seed(2),
        dtype=torch.float64,
    )
    own: Any = linear(by["x"])
    mask: SiteMask | SourcedMask
    if how == "plain":
        r = torch.cat([by["sources"].expand(-1, POSITIONS, -1), noise])
        mask = SiteMask(by["ci"] + (1 - by["ci"]) * r, by["delta"], route)
    else:
        sources = by["sources"] if hostile else None
        others = noise if hostile < ROWS else None
        mask = SourcedMask(by["ci"], sources, others, by["delta"], kernels, route)
    out = components.masked_output("0", linear.bias, by["x"], own, mask)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).double()
    wanted = [by[n] for n in by if n != "sources" or hostile]
    wanted += [components.V("0"), components.U("0")]
    return out, *torch.autograd.grad((out * weights).sum(), wanted)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("hostile", [0, 2, ROWS])
@pytest.mark.parametrize("shared", [True, False], ids=["per row", "per position"])
@pytest.mark.parametrize("routed", [True, False])
def test_as_with_masks_made_beforehand(
    bias: bool, hostile: int, shared: bool, routed: bool
) -> None:
    route = torch.rand(ROWS, POSITIONS, generator=torch.Generator().manual_seed(4)) < 0.5
    both = [
        outputs(how, bias, hostile, shared, route if routed else None, Kernels())
        for how in ("plain", "sourced")
    ]
    for expected, actual in zip(*both, strict=True):
        torch.testing.assert_close(actual, expected.to(actual.dtype), atol=1e-6, rtol=1e-6)
    assert all(gradient.abs().max() > 0 for gradient in both[1])


def test_frozen_components_get_no_gradient() -> None:
    linear, components = made(bias=False)
    by = leaves(ROWS, True, torch.float64)
    mask = SourcedMask(by["ci"], by["sources"], None, by["delta"], Kernels(), frozen=True)
    components.masked_output("0", linear.bias, by["x"], linear(by["x"]), mask).sum().backward()
    assert by["sources"].grad is not None and by["sources"].grad.abs().max() > 0
    assert [p.grad for p in components.parameters()] == [None, None]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="inductor needs a C++ compiler",
)
def test_compiled_kernels_equal_the_eager_ones() -> None:
    both = [
        outputs("sourced", True, 2, True, None, kernels)
        for kernels in (Kernels(compiled=True), Kernels())
    ]
    for compiled, eager in zip(*both, strict=True):
        torch.testing.assert_close(compiled, eager, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("routed", [True, False])
def test_in_bfloat16_it_is_as_near_as_products_are(routed: bool) -> None:
    linear, components = made(bias=False)
    linear, components = linear.float(), components.float()
    route = torch.tensor([True, False, True]).expand(ROWS, -1) if routed else None
    found = []
    for enabled in (False, True):
        by = leaves(2, True, torch.float32)
        noise = torch.full((ROWS - 2, POSITIONS, C), 0.25)
        mask = SourcedMask(by["ci"], by["sources"], noise, by["delta"], Kernels(), route)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            own = linear(by["x"])
            out = components.masked_output("0", linear.bias, by["x"], own, mask)
        assert out.dtype == (torch.bfloat16 if enabled else torch.float32)
        wanted = [*by.values(), components.V("0"), components.U("0")]
        gradients = torch.autograd.grad(out.float().square().sum(), wanted)
        assert [g.dtype for g in gradients] == [torch.float32] * len(wanted)
        found.append((out.float(), *gradients))
    for exact, rounded in zip(*found, strict=True):
        assert 0 < (rounded - exact).norm() < 0.03 * exact.norm()
