"""Matching two decompositions: known matches, a naive reference, and controls."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.evidence.stability import correlations, cosines, matches
from pd_finetune.decomposition.sites import Site
from pd_finetune.errors import UserError


def components(seed: int, C: int = 4, name: str = "s") -> Subcomponents:
    made = Subcomponents({name: Site(name, name, 6, 5, C)})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(generator=generator)
    return made


def matched(
    one: Subcomponents,
    ci: dict[str, torch.Tensor],
    other: Subcomponents,
    other_ci: dict[str, torch.Tensor],
    least: float,
) -> pd.DataFrame:
    means = ({site: values.mean(0) for site, values in of.items()} for of in (ci, other_ci))
    return matches(one, next(means), other, next(means), least, ci, other_ci)


def importances(seed: int, C: int = 4) -> dict[str, torch.Tensor]:
    return {"s": torch.rand(50, C, generator=torch.Generator().manual_seed(seed))}


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), C=st.integers(1, 5), D=st.integers(1, 5))
def test_cosines_are_those_of_the_whole_matrices(seed: int, C: int, D: int) -> None:
    one, other = components(seed, C), components(seed + 1, D)
    found = cosines(one.V("s"), one.U("s"), other.V("s"), other.U("s"))
    assert found.shape == (C, D)
    for c in range(C):
        for d in range(D):
            a = torch.outer(one.U("s")[c], one.V("s")[:, c]).double().flatten()
            b = torch.outer(other.U("s")[d], other.V("s")[:, d]).double().flatten()
            wanted = torch.dot(a, b) / (a.norm() * b.norm())
            assert found[c, d].item() == pytest.approx(wanted.item(), abs=1e-5)


def test_correlations_are_pearsons() -> None:
    a, b = importances(0)["s"], importances(1, 3)["s"]
    found = correlations(a, b)
    wanted = torch.corrcoef(torch.cat([a, b], 1).T)[:4, 4:]
    assert torch.allclose(found, wanted, atol=1e-5)
    for constant in (1.0, 0.1, 1 / 3, 0.7182818):  # their means are rounded
        assert (correlations(torch.full((50, 2), constant), b) == 0).all()


def test_a_permuted_copy_matches_itself() -> None:
    one, order = components(0), torch.tensor([2, 0, 3, 1])
    other = components(1)
    with torch.no_grad():
        # a scale and a sign moved from V to U change no matrix
        other.V("s").copy_(-3 * one.V("s")[:, order])
        other.U("s").copy_(one.U("s")[order] / -3)
    ci = importances(0)
    found = matched(one, ci, other, {"s": ci["s"][:, order]}, 1e-6)
    back = {int(new): old for old, new in enumerate(order)}
    assert list(found["match"]) == [back[i] for i in range(4)]
    assert found["cosine"].to_numpy() == pytest.approx(1.0, abs=1e-5)
    assert found["correlation"].to_numpy() == pytest.approx(1.0, abs=1e-5)
    assert list(found["best_correlation_match"]) == list(found["match"])
    assert found["mutual"].all()
    assert (found["control_cosine"] < 0.95).all()


def test_strangers_match_no_better_than_the_control() -> None:
    one, other = components(0, 40), components(1, 40)
    found = matched(one, importances(0, 40), other, importances(1, 40), 1e-6)
    assert abs(found["cosine"].mean() - found["control_cosine"].mean()) < 0.05
    assert found["cosine"].mean() < 0.9


def test_what_is_dead_stands_on_neither_side() -> None:
    one, other = components(0), components(0)
    ci, other_ci = importances(0), importances(0)
    ci["s"][:, 1] = 0
    other_ci["s"][:, 2] = 0
    found = matched(one, ci, other, other_ci, 0.01)
    assert list(found["index"]) == [0, 2, 3]
    assert 2 not in list(found["match"])
    rows = found.set_index("index")
    assert rows.loc[0, "cosine"] == pytest.approx(1.0, abs=1e-5)
    assert rows.loc[2, "cosine"] < 0.99


def test_a_site_where_the_other_has_nothing_has_no_match() -> None:
    one, other_ci = components(0), importances(0)
    other_ci["s"][:] = 0
    found = matched(one, importances(0), one, other_ci, 0.01)
    assert list(found["index"]) == [0, 1, 2, 3]
    assert set(found["match"]) == {-1} and not found["mutual"].any()
    assert (found[["cosine", "correlation"]] == 0).all(axis=None)


def test_one_alone_has_no_control() -> None:
    one, other_ci = components(0), importances(0)
    other_ci["s"][:, 1:] = 0
    found = matched(one, importances(0), one, other_ci, 0.01)
    assert set(found["match"]) == {0} and found["control_cosine"].isna().all()


def test_without_importances_there_are_cosines_alone() -> None:
    one, other, ci = components(0), components(1), importances(0)
    means = {"s": ci["s"].mean(0)}
    found, whole = matches(one, means, other, means, 1e-6), matched(one, ci, other, ci, 1e-6)
    assert found[["correlation", "best_correlation"]].isna().all(axis=None)
    assert set(found["best_correlation_match"]) == {-1}
    same = ["index", "mean_ci", "match", "cosine", "mutual", "control_cosine"]
    pd.testing.assert_frame_equal(found[same], whole[same])
    dead = {"s": torch.zeros(4)}
    assert matches(one, means, other, dead, 1e-6)["correlation"].isna().all()
    assert matches(one, means, other, dead, 1e-6, ci, None)["correlation"].isna().all()


def test_refusals() -> None:
    one = components(0)
    with pytest.raises(UserError, match="different sites cannot be matched: s and t"):
        matched(one, importances(0), components(0, name="t"), importances(0), 1e-6)
    with pytest.raises(UserError, match="no subcomponent has a mean CI of 2"):
        matched(one, importances(0), one, importances(0), 2.0)
