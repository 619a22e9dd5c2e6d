"""Micro-batches: the same losses, gradients, sources and running means as the whole batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pd_finetune.decomposition.micro_batch import micro_batches
from pd_finetune.decomposition.trainer import Trainer
from pd_finetune.errors import UserError
from tests import tiny
from tests.decomposition import parts

ROWS, WINDOW = 8, 10
# what is no mean over rows weighs enough to show in the gradients
LOUD: dict[str, Any] = {
    "rows": ROWS,
    "minimality_coefficient": 0.1,
    "frequency_coefficient": 1e-3,
    "faithfulness_coefficient": 5.0,
}
RECIPES: dict[str, dict[str, Any]] = {
    "merged": LOUD,
    "merged, source per position": LOUD | {"adversary_scope": "position"},
    "paper": parts.PAPER | LOUD,
    "paper, source per row": parts.PAPER | LOUD | {"adversary_scope": "row"},
    "no adversary": LOUD | {"adversary": False},
}


def batch_at(step: int) -> Tensor:
    return parts.batch_at(step, ROWS, WINDOW)


def made(micro_batch: int, **recipe: Any) -> Trainer:
    """A trainer whose V, U leave a Delta and whose CI values reach below 0 and above 1."""
    config = parts.config(12, parts.SITES, **recipe)
    config.micro_batch = micro_batch
    return parts.unsettled(Trainer(tiny.target(), config, batch_at, Path()))


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    modules = {"components": trainer.components, "ci": trainer.ci_function}
    return {
        f"{prefix}.{name}": p.grad
        for prefix, module in modules.items()
        for name, p in module.named_parameters()
        if p.grad is not None
    }


def differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    assert set(one) == set(other)
    return {n: float((one[n] - other[n]).norm() / one[n].norm().clamp_min(1e-8)) for n in one}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("micro_batch", [2, 4])
def test_a_step_equals_the_whole_batch(micro_batch: int, recipe: dict[str, Any]) -> None:
    """Relative differences within 1e-4, the rounding of float32 through two climbs by Adam."""
    whole, split = made(0, **recipe), made(micro_batch, **recipe)
    assert [len(p.rows) for p in split.parts] == [micro_batch] * (ROWS // micro_batch)
    for step in (4, 5):
        results = [
            trainer.maker.backward(batch_at(step), step, trainer._noise(step), trainer.parts)
            for trainer in (whole, split)
        ]
        one, other = results
        assert other.total.item() == pytest.approx(one.total.item(), rel=1e-5)
        assert other.terms == pytest.approx(one.terms, rel=1e-5)
        assert {
            n: d for n, d in differences(gradients(whole), gradients(split)).items() if d > 1e-4
        } == {}
        if one.sources is not None:
            assert other.sources is not None
            assert differences({"": one.sources}, {"": other.sources})[""] < 1e-4
            state, theirs = (t.maker.sources.state_dict() for t in (whole, split))
            for name, value in state.items():
                torch.testing.assert_close(theirs[name], value, atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(split.maker.frequency.mean, whole.maker.frequency.mean)
        assert torch.equal(split.maker.frequency.weight, whole.maker.frequency.weight)


@pytest.mark.parametrize("name", ["merged", "paper"])
def test_training_in_parts_is_training(name: str) -> None:
    """The terms of six optimiser steps, each of whose slopes moves the next."""
    whole, split = made(0, **RECIPES[name]), made(2, **RECIPES[name])
    for _ in range(6):
        one, other = whole.train_step(), split.train_step()
        assert other.terms == pytest.approx(one.terms, rel=1e-3)


def test_slopes_of_minimality_are_those_of_the_whole_batch() -> None:
    """Averaging each part's own minimality is another loss, so the tests above can fail."""
    whole, split = made(0, **RECIPES["paper"]), made(2, **RECIPES["paper"])
    one = whole.maker.backward(batch_at(4), 4, whole._noise(4), whole.parts)
    terms = []
    for part in split.parts:
        noise = split._noise(4)
        noise = replace(noise, rows=[noise.rows[row] for row in part.rows])
        split.maker.sources = made(0, **RECIPES["paper"] | {"rows": 2}).maker.sources
        terms.append(split.maker.loss(batch_at(4)[part.rows], 4, noise).terms["minimality"])
    assert sum(terms) / len(terms) != pytest.approx(one.terms["minimality"], rel=1e-3)


def test_parts() -> None:
    one, two = micro_batches(4, 4, 4)
    assert (one.rows, one.sources) == ([0, 1, 4, 5], slice(0, 2))
    assert (two.rows, two.sources) == ([2, 3, 6, 7], slice(2, 4))
    (all_rows,) = micro_batches(4, 4, 0)
    assert (all_rows.rows, all_rows.sources) == (list(range(8)), slice(0, 4))


@pytest.mark.parametrize("size", [1, 3, 16])
def test_rows_that_do_not_split(size: int) -> None:
    with pytest.raises(UserError, match=f"micro_batch={size}: the 8 rows .*; possible: 2, 4, 8$"):
        micro_batches(4, 4, size)
