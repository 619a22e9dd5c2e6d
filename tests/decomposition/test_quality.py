"""What a training keeps of its evidence, of a decomposition whose right answers are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.evidence.battery import battery, summary
from pd_finetune.decomposition.evidence.report import print_record
from pd_finetune.decomposition.initialise import initialise
from pd_finetune.decomposition.reconstruction import Reconstruction
from pd_finetune.targets.load import Target
from tests import tiny
from tests.decomposition import parts

KL = {"unmasked", "ci_masked", "rounded", "stochastic", "random", "zero", "fresh_adversary"}


def exact() -> tuple[Target, Subcomponents, CIFunction]:
    target = tiny.target()
    components = Subcomponents(parts.sites_of(target))
    initialise(components, target.model, 0)
    return target, components, parts.ci_function(target.model, components.sites)


def evidence(
    target: Target, components: Subcomponents, function: CIFunction, steps: int = 20, seed: int = 0
) -> dict[str, Any]:
    decomposition = Decomposition(components, function, 12)
    found = battery(
        target, decomposition, parts.IDS, rungs=[steps], step=0.1, seed=seed, progress=False
    )
    return summary(found, "kl_nats")


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for part in value.values() for n in numbers(part)]
    return [value]


def test_rows_of_an_exact_start() -> None:
    target, components, function = exact()
    proof = evidence(target, components, function)
    kl = proof["kl_nats"]
    assert set(kl) == KL
    assert all(math.isfinite(n) for n in numbers(proof))
    assert abs(kl["unmasked"]) < 1e-5
    assert proof["faithfulness_relative"] < 1e-9
    assert kl["zero"] > 0.1
    assert kl["zero"] > kl["random"] > kl["stochastic"] > kl["unmasked"]
    assert kl["fresh_adversary"] >= kl["stochastic"]
    assert (proof["tokens"], proof["subcomponents"]) == (24, sum(function.C))


def test_counts_are_those_of_the_ci_values() -> None:
    target, components, function = exact()
    with torch.no_grad():
        function.output_head.bias[:3] = -50.0  # dead
    proof = evidence(target, components, function, steps=0)
    with torch.no_grad():
        recon = Reconstruction(target.model, components, function, parts.IDS)
        ci = recon.pre_sigmoid().clamp(0, 1).flatten(0, 1)
    assert 0 < (ci > 0).float().mean() < 1
    assert proof["ci_l0"] == pytest.approx((ci > 0).sum().item() / 24)
    assert proof["ci_l0_above_0.1"] == pytest.approx((ci > 0.1).sum().item() / 24)
    assert proof["alive"] == int((ci.mean(0) > 1e-6).sum()) < sum(function.C)
    sites, offset = proof["sites"], 0
    assert list(sites) == function.order
    for name, C in zip(function.order, function.C, strict=True):
        part = ci[:, offset : offset + C]
        assert sites[name]["C"] == C
        assert sites[name]["alive"] == int((part.mean(0) > 1e-6).sum())
        assert sites[name]["ci_l0"] == pytest.approx((part > 0).sum().item() / 24)
        assert sites[name]["highest_mean_ci"] == pytest.approx(part.mean(0).max().item())
        offset += C


def test_masks_of_ones_and_zeros_by_the_ci_function() -> None:
    """CI 1 everywhere: nothing may be ablated, all rows but random and zero vanish; CI 0: zero."""
    target, components, function = exact()
    with torch.no_grad():
        function.output_head.weight.zero_()
        function.output_head.bias.fill_(2.0)
    kl = evidence(target, components, function, steps=3)["kl_nats"]
    for name in ("unmasked", "ci_masked", "rounded", "stochastic", "fresh_adversary"):
        assert abs(kl[name]) < 1e-5
    assert min(kl["random"], kl["zero"]) > 0.01
    with torch.no_grad():
        function.output_head.bias.fill_(-2.0)
    kl = evidence(target, components, function, steps=3)["kl_nats"]
    assert kl["ci_masked"] == kl["rounded"] == kl["zero"] > 0.1


def test_unfaithful_parts_show_in_the_unmasked_row() -> None:
    target, components, function = exact()
    with torch.no_grad():
        for name in components.sites:
            components.U(name).mul_(0.5)
    proof = evidence(target, components, function, steps=0)
    assert proof["kl_nats"]["unmasked"] > 0.01
    assert proof["faithfulness_relative"] == pytest.approx(0.25, rel=1e-4)


def test_evidence_is_repeatable_and_prints(capsys: pytest.CaptureFixture[str]) -> None:
    target, components, function = exact()
    first = evidence(target, components, function, steps=1)
    assert evidence(target, components, function, steps=1) == first
    other = evidence(target, components, function, steps=1, seed=1)
    assert other["kl_nats"]["stochastic"] != first["kl_nats"]["stochastic"]
    assert other["kl_nats"]["zero"] == first["kl_nats"]["zero"]
    decomposition = Decomposition(components, function, 12)
    print_record(battery(target, decomposition, parts.IDS, rungs=[1], step=0.1, progress=False))
    shown = capsys.readouterr().out
    assert f"{first['kl_nats']['zero']:.4f}" in shown and "24 held-out tokens" in shown
    assert all(name in shown for name in components.sites)
