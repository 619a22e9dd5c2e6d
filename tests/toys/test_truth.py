"""The comparison with the truth: exact where a decomposition is right, low where it is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pd_finetune.toys.residual_mlp import ResidualMLP
from pd_finetune.toys.tms import TMS
from pd_finetune.toys.truth import SiteTruth, compare

FEATURES, HIDDEN, C = 6, 3, 9


def model() -> TMS:
    torch.manual_seed(0)
    made = TMS(FEATURES, HIDDEN, identity=True)
    with torch.no_grad():
        made.up.weight.copy_(made.down.weight.T)
    return made


def padded(value: Tensor, dim: int) -> Tensor:
    shape = list(value.shape)
    shape[dim] = C - shape[dim]
    return torch.cat([value, torch.zeros(shape)], dim)


def perfect(site: str, truth: SiteTruth) -> dict[str, Any]:
    """V, U, mean CI and single-feature CI of the right decomposition, three dead ones added."""
    assert truth.reads is not None and truth.writes is not None
    return {
        "V": padded(truth.reads.T.detach(), 1),
        "U": padded(truth.writes.detach(), 0),
        "mean_ci": padded(torch.full((FEATURES,), 0.05), 0),
        "single_ci": padded(torch.eye(FEATURES), 1),
    }


@pytest.mark.parametrize("site", ["down", "up"])
def test_a_perfect_decomposition(site: str) -> None:
    truth = model().truth()[site]
    parts = perfect(site, truth)
    found = compare(truth, **parts)
    W = model().get_submodule(site).weight
    torch.testing.assert_close((parts["V"] @ parts["U"]).T, W)
    assert found["mean_max_cosine"] == pytest.approx(1.0)
    assert found["least_max_cosine"] == pytest.approx(1.0)
    assert found["mean_max_cosine_columns"] == pytest.approx(1.0)
    assert found["mean_norm_ratio"] == pytest.approx(1.0)
    assert found["alive"] == found["alive_true"] == found["known"] == FEATURES
    assert found["important_per_feature"] == found["important_per_feature_true"] == 1.0
    assert found["exact_features"] == 1.0


def test_scale_may_move_between_V_and_U_and_the_sign_of_both() -> None:
    truth = model().truth()["down"]
    parts = perfect("down", truth)
    parts["V"], parts["U"] = -3 * parts["V"], -parts["U"] / 3
    found = compare(truth, **parts)
    assert found["mean_max_cosine"] == pytest.approx(1.0)
    assert found["mean_norm_ratio"] == pytest.approx(1.0)
    parts["V"] = -parts["V"]  # the negative of W
    assert compare(truth, **parts)["mean_max_cosine"] < 0.5


def test_a_random_one_is_low() -> None:
    truth = model().truth()["down"]
    generator = torch.Generator().manual_seed(1)
    found = compare(
        truth,
        torch.randn(FEATURES, C, generator=generator),
        torch.randn(C, HIDDEN, generator=generator),
        torch.ones(C),
        torch.ones(FEATURES, C),
    )
    assert found["mean_max_cosine"] < 0.75 < found["mean_max_cosine_columns"]
    assert found["alive"] == C and found["important_per_feature"] == C
    assert found["exact_features"] == 0.0


def test_split_dead_and_swapped_ones_are_told() -> None:
    truth = model().truth()["down"]
    parts = perfect("down", truth)
    parts["U"][0] *= 0.5  # feature 0 split in two halves
    parts["V"][:, -1], parts["U"][-1] = parts["V"][:, 0], parts["U"][0]
    parts["mean_ci"][-1], parts["single_ci"][0, -1] = 0.05, 1.0
    found = compare(truth, **parts)
    assert found["mean_max_cosine"] == pytest.approx(1.0)
    assert found["mean_norm_ratio"] == pytest.approx(1 - 0.5 / FEATURES)
    assert found["alive"] == FEATURES + 1
    assert found["important_per_feature"] == pytest.approx(1 + 1 / FEATURES)
    assert found["exact_features"] == pytest.approx(1 - 1 / FEATURES)

    parts = perfect("down", truth)
    parts["mean_ci"][2] = 0.0  # a dead one counts for nothing
    found = compare(truth, **parts)
    assert found["alive"] == FEATURES - 1
    assert found["least_max_cosine"] < 0.9

    parts = perfect("down", truth)
    parts["single_ci"][[0, 1]] = parts["single_ci"][[1, 0]]  # importance of the wrong one
    assert compare(truth, **parts)["exact_features"] == pytest.approx(1 - 2 / FEATURES)


def test_nothing_alive_is_zero_and_finite() -> None:
    truth = model().truth()["down"]
    found = compare(truth, **perfect("down", truth) | {"mean_ci": torch.zeros(C)})
    assert found["alive"] == 0
    assert found["mean_max_cosine"] == found["mean_norm_ratio"] == 0.0


def test_a_feature_that_the_toy_left_out_is_not_asked_for() -> None:
    made = model()
    with torch.no_grad():
        made.down.weight[:, 4] = 0.001
    truth = made.truth()["down"]
    assert truth.alive == FEATURES - 1
    parts = perfect("down", truth)
    parts["mean_ci"][4], parts["single_ci"][4] = 0.0, 0.0
    found = compare(truth, **parts)
    assert found["mean_max_cosine"] == pytest.approx(1.0)
    assert found["known"] == found["alive"] == FEATURES - 1
    assert found["exact_features"] == 1.0


def test_the_identity_is_counted_not_compared() -> None:
    truth = model().truth()["identity"]
    single = torch.zeros(FEATURES, C)
    single[:, :HIDDEN] = 1.0
    found = compare(truth, torch.randn(HIDDEN, C), torch.randn(C, HIDDEN), single[0], single)
    assert found["alive"] == found["alive_true"] == HIDDEN
    assert found["important_per_feature"] == found["important_per_feature_true"] == HIDDEN
    assert "mean_max_cosine" not in found


def test_residual_mlp_is_compared_by_what_is_read_of_each_feature() -> None:
    torch.manual_seed(0)
    made = ResidualMLP(FEATURES, embedding=8, neurons=4)
    with torch.no_grad():
        for name, weight in made.constrained().items():
            made.get_parameter(name).copy_(weight)
    truth = made.truth()
    assert set(truth) == {"layers.0.mlp_in", "layers.0.mlp_out"}
    assert (truth["layers.0.mlp_out"].alive, truth["layers.0.mlp_out"].important) == (4, None)
    found = truth["layers.0.mlp_in"]
    assert found.writes is not None
    V = padded(torch.linalg.pinv(made.embedding), 1)  # each reads one feature and no other
    U = padded(found.writes.detach(), 0)
    W = made.get_submodule("layers.0.mlp_in").weight
    torch.testing.assert_close((V @ U).T, W, atol=1e-5, rtol=1e-4)
    mean = padded(torch.ones(FEATURES), 0)
    result = compare(found, V, U, mean, padded(torch.eye(FEATURES), 1))
    assert result["mean_max_cosine"] == pytest.approx(1.0)
    assert result["exact_features"] == 1.0
