"""The price of chance by one scale: crossing, direction, and the basis of singular directions."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pd_finetune.decomposition.bases import svd
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.sites import weight_at
from pd_finetune.edits.edit import Material
from pd_finetune.edits.mask import Mask
from pd_finetune.selection.doses import MOST_DAMAGE, Dose, Doses, effect, price_of
from pd_finetune.targets.changes import bake
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.targets.predictions import sequence_cross_entropies
from tests import tiny
from tests.decomposition import parts


@given(st.floats(0.1, 3.0), st.floats(0.05, 0.95), st.floats(-0.5, 0.3), st.integers(1, 6))
def test_the_crossing_of_a_straight_line_is_where_it_is(
    slope: float, share: float, harm: float, count: int
) -> None:
    doses = [Dose(1 - d, 2 + slope * d, 3 + harm * d) for d in range(count + 1)]
    distance = count - 1 + share
    price = price_of(doses, 2 + slope * distance)
    assert price.scale == pytest.approx(1 - distance)
    assert price.damage == pytest.approx(harm * distance)


def test_what_never_crosses_has_no_price() -> None:
    doses = [Dose(1.0, 2.0, 3.0), Dose(-1.0, 4.0, 3.1)]
    assert math.isnan(price_of(doses, 4.1).damage)
    assert price_of(doses, 4.0).damage == pytest.approx(0.1)
    assert math.isnan(price_of(doses[:1], 4.0).damage)
    dear = [doses[0], Dose(-1.0, 4.0, 3.0 + 1.01 * MOST_DAMAGE)]
    assert math.isnan(price_of(dear, 4.0).damage)
    assert price_of(dear, 3.9).damage == pytest.approx(0.95 * 1.01 * MOST_DAMAGE)


@pytest.fixture
def measured() -> tuple[Doses, Decomposition]:
    target = tiny.target()
    basis = Decomposition(parts.random_components(parts.sites_of(target)), None, 12)
    return Doses(target, basis, (parts.IDS, parts.IDS * 3 % 300)), basis


@pytest.mark.parametrize("name", ["h.0.attn.q_proj:5", "h.1.mlp.c_fc:3"])
def test_doses_are_those_of_the_baked_weight(
    name: str, measured: tuple[Doses, Decomposition]
) -> None:
    doses, basis = measured
    target, key = tiny.target(), SubcomponentKey.parse(name)
    for scale in (-3.0, 1.0, 6.0):
        method = Mask(Material(target, basis, [key]), start=scale)
        found = doses.at(key, scale)
        edited = replace(target, model=bake(target.model, method))
        for ids, value in (
            (parts.IDS, found.target_ce),
            (parts.IDS * 3 % 300, found.protected_ce),
        ):
            assert value == pytest.approx(fmean(sequence_cross_entropies(edited, ids)), abs=1e-5)
    inverted = doses.at(key, -1.0)
    rises = [
        inverted.target_ce - doses.clean.target_ce,
        inverted.protected_ce - doses.clean.protected_ce,
    ]
    assert effect(doses, key) == pytest.approx(rises[0] - rises[1])


def test_a_price_is_that_of_the_cheaper_direction(measured: tuple[Doses, Decomposition]) -> None:
    doses, basis = measured
    with torch.no_grad():  # weak enough for straight lines between neighbouring doses
        for site in basis.sites:
            basis.components.U(site).mul_(0.2)
    signs = set()
    for key in basis.all_keys()[::9]:
        wanted = doses.clean.target_ce + 0.01
        both = doses.prices(key, wanted)
        found = {sign: price for sign, price in both.items() if not math.isnan(price.damage)}
        for sign, price in found.items():
            assert (price.scale - 1) * sign > 0
            at = doses.at(key, price.scale)
            assert at.target_ce == pytest.approx(wanted, abs=5e-3)
            damage = at.protected_ce - doses.clean.protected_ce
            assert damage == pytest.approx(price.damage, abs=5e-3)
        least = doses.price(key, wanted)
        if found:
            best = min(found, key=lambda sign: found[sign].damage)
            assert least == found[best]
            signs.add(best)
        else:
            assert math.isnan(least.damage)
    assert signs == {-1, 1}


def test_singular_directions_make_up_the_weight() -> None:
    target = tiny.target()
    sites = parts.sites_of(target)
    basis = svd.build(target, sites=list(sites))
    for name, site in sites.items():
        W = weight_at(target.model, site)
        V, U = basis.components.V(name), basis.components.U(name)
        torch.testing.assert_close((V @ U).T, W, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(V.T @ V, torch.eye(V.shape[1]), atol=1e-5, rtol=1e-5)
        assert basis.check(SubcomponentKey(name, min(W.shape) - 1))
        sizes = U.norm(dim=1)
        assert (sizes[:-1] >= sizes[1:] - 1e-6).all()
