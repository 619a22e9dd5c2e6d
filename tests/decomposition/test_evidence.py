"""The evidence battery: every row for every site, against literal computations."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.evidence.adversary import climb, random_start
from pd_finetune.decomposition.evidence.battery import battery
from pd_finetune.decomposition.evidence.counts import ci_histogram
from pd_finetune.decomposition.evidence.maskings import (
    MASKINGS,
    Batch,
    held_out_batches,
    masked_divergence,
)
from pd_finetune.decomposition.evidence.report import by_site, page, totals
from pd_finetune.decomposition.initialise import initialise
from pd_finetune.decomposition.reconstruction import Reconstruction
from pd_finetune.decomposition.sites import weight_at
from pd_finetune.errors import UserError
from pd_finetune.targets.load import Target
from tests import tiny
from tests.decomposition import parts

LADDER: dict[str, Any] = {"rungs": [3, 6], "step": 0.1, "restarts": 2, "site_steps": 3}


@pytest.fixture(scope="module")
def exact() -> tuple[Target, Decomposition]:
    """V U = W at every site (C is below the rank at none of them)."""
    target = tiny.target()
    components = parts.Subcomponents(parts.sites_of(target))
    initialise(components, target.model, 0)
    function = parts.ci_function(target.model, components.sites)
    components.requires_grad_(False)
    function.requires_grad_(False)
    return target, Decomposition(components, function, 12)


@pytest.fixture(scope="module")
def found(exact: tuple[Target, Decomposition]) -> dict[str, Any]:
    return battery(*exact, parts.IDS, **LADDER, batch=1, progress=False)


@pytest.fixture(scope="module")
def batches(exact: tuple[Target, Decomposition]) -> list[Batch]:
    target, decomposition = exact
    return held_out_batches(
        target, decomposition.components, decomposition.ci_function, parts.IDS, 2
    )


def starts(exact: tuple[Target, Decomposition], seed: int = 0) -> dict[str, torch.Tensor]:
    sites = exact[1].sites
    return random_start(sites.values(), torch.Generator().manual_seed(seed))


def test_every_row_of_every_site(
    exact: tuple[Target, Decomposition], found: dict[str, Any]
) -> None:
    order = exact[1].ci_function.order
    assert list(found["sites"]) == order
    for part in (found, *found["sites"].values()):
        assert set(part["kl"]) == set(MASKINGS)
        for row in part["kl"].values():
            assert math.isfinite(row["nats"]) and math.isfinite(row["standard_error_nats"])
            assert row["of_zero_masked"] == pytest.approx(row["nats"] / part["kl"]["zero"]["nats"])
    assert [row["steps"] for row in found["adversary"]["rungs"]] == [0, 3, 6]
    for name, site in found["sites"].items():
        weight = weight_at(exact[0].model, exact[1].sites[name])
        assert (site["d_out"], site["d_in"]) == tuple(weight.shape)
        assert site["rank"] == torch.linalg.matrix_rank(weight)
        assert site["adversary"]["steps"] == 3
        assert len(site["mean_ci"]) == site["C"] == exact[1].sites[name].C
        assert all(a >= b for a, b in pairwise(site["mean_ci"]))


def test_a_faithful_decomposition_has_no_unmasked_kl(found: dict[str, Any]) -> None:
    for part in (found, *found["sites"].values()):
        assert abs(part["kl"]["unmasked"]["nats"]) < 1e-5
        assert part["faithfulness_relative"] < 1e-9
    assert found["kl"]["zero"]["nats"] > 0.1


def test_counts_are_literal(
    exact: tuple[Target, Decomposition], found: dict[str, Any], batches: list[Batch]
) -> None:
    total = 0
    for name, site in found["sites"].items():
        values = batches[0].ci[name].flatten(0, 1).tolist()
        important = sum(value > 0 for row in values for value in row)
        total += important
        assert site["ci_l0"] == pytest.approx(important / 24)
        above = sum(value > 0.1 for row in values for value in row)
        assert site["ci_l0_above_0.1"] == pytest.approx(above / 24)
        assert site["alive"] == sum(sum(column) / 24 > 1e-6 for column in zip(*values, strict=True))
        shown = site["ci_histogram"]
        assert shown["zero"] == len(values) * site["C"] - important
        assert shown["zero"] + shown["one"] + sum(shown["inside"]) == 24 * site["C"]
    assert found["ci_l0"] == pytest.approx(total / 24)


def test_histogram_keeps_both_ends_apart() -> None:
    shown = ci_histogram(torch.tensor([[0.0, 1.0, 1.0, 0.01, 0.99, 0.5]]))
    assert (shown["zero"], shown["one"], sum(shown["inside"])) == (1, 2, 3)
    assert (shown["inside"][0], shown["inside"][-1]) == (1, 1)


def test_one_site_masked_is_the_route_to_that_site(
    exact: tuple[Target, Decomposition], batches: list[Batch]
) -> None:
    target, decomposition = exact
    function = decomposition.ci_function
    recon = Reconstruction(target.model, decomposition.components, function, parts.IDS)
    ci = recon.pre_sigmoid().detach().clamp(0, 1)
    generator = torch.Generator()
    for place, name in enumerate(function.order):
        route = torch.zeros(*parts.IDS.shape, len(function.order), dtype=torch.bool)
        route[..., place] = True
        expected = parts.divergence(recon, ci, route=route).mean(-1)
        ours = masked_divergence(batches, MASKINGS["ci_masked"], [name], generator)
        torch.testing.assert_close(ours, expected)


def test_a_longer_climb_begins_with_the_shorter(
    exact: tuple[Target, Decomposition], batches: list[Batch]
) -> None:
    start = starts(exact)
    short, long = climb(batches, start, 20, 0.1), climb(batches, start, 40, 0.1)
    assert (len(short), len(long)) == (21, 41)
    assert long[:21] == short
    assert long[20] > 1.3 * long[0]
    assert long[40] >= long[0]
    assert climb(batches, starts(exact, seed=1), 0, 0.1) != long[:1]


def test_the_climb_is_by_the_sign_of_the_gradient(
    exact: tuple[Target, Decomposition], batches: list[Batch]
) -> None:
    """The first step against finite differences, for a few coordinates of one site."""
    name = exact[1].ci_function.order[0]
    start = {name: torch.full((exact[1].sites[name].C + 1,), 0.5)}
    expected = climb(batches, start, 1, 0.1)[1]

    def at(source: torch.Tensor) -> float:
        return climb(batches, {name: source}, 0, 0.1)[0]

    moved = start[name].clone()
    for c in range(len(moved)):
        nudge = torch.zeros_like(moved)
        nudge[c] = 0.05
        moved[c] += math.copysign(0.1, at(start[name] + nudge) - at(start[name] - nudge))
    assert at(moved) == pytest.approx(expected, rel=1e-3)


def test_batches_change_nothing_but_rounding(
    exact: tuple[Target, Decomposition], batches: list[Batch]
) -> None:
    target, decomposition = exact
    single = held_out_batches(
        target, decomposition.components, decomposition.ci_function, parts.IDS, 1
    )
    assert len(single) == 2
    one, two = (climb(b, starts(exact), 3, 0.1) for b in (batches, single))
    assert one == pytest.approx(two, rel=1e-3)


def test_values_that_are_not_finite_are_refused(exact: tuple[Target, Decomposition]) -> None:
    target, decomposition = exact
    broken = parts.Subcomponents(decomposition.sites)
    broken.requires_grad_(False)
    for parameter in broken.parameters():
        parameter.fill_(math.nan)
    with pytest.raises(UserError, match="not finite"):
        battery(
            target,
            Decomposition(broken, decomposition.ci_function, 12),
            parts.IDS,
            **LADDER,
            progress=False,
        )


def test_tables_show_the_record(found: dict[str, Any]) -> None:
    text = {"split": "test", "window_tokens": 12, "windows": {"de": 2}}
    settings = {"adversary": {"restarts": 2, "step": 0.1}}
    whole = found | {
        "text": text,
        "settings": settings,
        "decomposition_hash": "a" * 64,
        "target_hash": "b" * 64,
    }
    assert len(totals(found)) == len(MASKINGS) + 3
    assert list(by_site(found)["site"]) == list(found["sites"])
    shown = page(whole)
    assert f"{found['kl']['zero']['nats']:.4f}" in shown
    assert "24 tokens of test text" in shown
    assert all(name in shown for name in found["sites"])
