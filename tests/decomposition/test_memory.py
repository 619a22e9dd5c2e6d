"""The memory estimate: what can be counted is counted exactly, and it moves as shapes do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pd_finetune.decomposition.memory import memory_line
from pd_finetune.decomposition.trainer import Trainer
from pd_finetune.distributed import Workers
from tests import tiny
from tests.decomposition import parts


def made(workers: Workers | None = None, **recipe: Any) -> Trainer:
    config = parts.config(**recipe)
    trainer = Trainer(tiny.target(), config, parts.batch_at, Path())
    trainer.workers = workers or Workers()  # no process group is there to share the start
    return trainer


@pytest.mark.parametrize("recipe", [{}, parts.PAPER], ids=["merged", "paper"])
def test_parameters_and_sources_are_counted_exactly(recipe: dict[str, Any]) -> None:
    trainer = made(**recipe)
    found = trainer.memory_bytes()
    trained = [*trainer.components.parameters(), *trainer.ci_function.parameters()]
    held = 4 * sum(p.numel() for p in trained)
    assert found["V, U and causal-importance function"] == held
    assert found["gradients and Adam"] == 3 * held
    assert trainer.maker.sources is not None
    # values, two moments, the leaf's gradient and a climb's scratch
    assert found["adversary's sources"] == 4 * 5 * trainer.maker.sources.values.numel()
    assert found["target"] == 4 * sum(p.numel() for p in trainer.target.model.parameters())


def test_workers_and_rows_share_activations() -> None:
    one, two = made(), made(Workers(1, 2))
    name = "activations"
    assert one.memory_bytes()[name] == 2 * two.memory_bytes()[name]
    assert made(rows=8).memory_bytes()[name] == 2 * one.memory_bytes()[name]
    assert made(adversary=False).memory_bytes()["adversary's sources"] == 0


def activations(settings: dict[str, Any], **recipe: Any) -> int:
    trainer = Trainer(
        tiny.target(), replace(parts.config(**recipe), **settings), parts.batch_at, Path()
    )
    return trainer.memory_bytes()["activations"]


@pytest.mark.parametrize("recipe", [{}, parts.PAPER], ids=["merged", "paper"])
def test_what_bounds_activations(recipe: dict[str, Any]) -> None:
    whole = activations({}, rows=8, **recipe)
    assert activations({"micro_batch": 2}, rows=8, **recipe) == whole // 4
    recomputed = activations({"activation_checkpointing": True}, rows=8, **recipe)
    assert 0.3 * whole < recomputed < 0.95 * whole


def test_the_line_names_the_largest_part_first() -> None:
    line = memory_line({"small": 2**28, "large": 3 * 2**30})
    assert line.startswith("memory: about 3.25 GiB a process")
    assert line.index("large 3.00") < line.index("small 0.25")
