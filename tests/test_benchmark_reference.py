"""The benchmark's plain reference and the package's `paper` recipe compute the same step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.agreement import agreement, same_draws
from benchmarks.floor import counted, matmul_rate
from benchmarks.reference import reference_of
from pd_finetune.decomposition.trainer import Trainer
from tests import tiny
from tests.decomposition import parts


def made(sites: dict[str, int] | None = None, **recipe: Any) -> Trainer:
    """A trainer whose V, U leave a Delta and whose CI values reach below 0 and above 1."""
    config = parts.config(12, sites or parts.SITES, **parts.PAPER | recipe)
    return parts.unsettled(Trainer(tiny.target(), config, parts.batch_at, Path(), step=6))


# each kind of term in turn is what the gradient consists of, then all as the recipe weighs them
WEIGHTS: dict[str, dict[str, float]] = {
    "reconstruction": {"minimality_coefficient": 1e-9, "faithfulness_coefficient": 0.0},
    "minimality": {"minimality_coefficient": 1e4, "faithfulness_coefficient": 0.0},
    "faithfulness": {"minimality_coefficient": 1e-9, "faithfulness_coefficient": 1e7},
    "all": {"faithfulness_coefficient": 5.0},
}


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("below", [True, False], ids=["ci below 0", "no ci below 0"])
def test_same_terms_and_gradients(weights: dict[str, float], below: bool) -> None:
    trainer = made(adversary_extra_climbs=0, **weights)
    if not below:
        with torch.no_grad():
            trainer.ci_function.output_head.weight.mul_(0.1)
    found = agreement(trainer)
    assert not {name: value for name, value in found.items() if value > 1e-5}


def test_same_climbs() -> None:
    trainer = made(adversary_extra_climbs=2)
    reference = reference_of(trainer)
    before = torch.cat([s.values for s in reference.sources.values()], -1)
    found = agreement(trainer, reference)
    after = torch.cat([s.values for s in reference.sources.values()], -1)
    assert found["adversarial_kl_nats"] < 1e-5
    assert reference.climbs == 2 and (after - before).abs().max() > 0.01
    assert trainer.maker.sources is not None
    own = trainer.maker.sources.values.split([*trainer.ci_function.C, len(reference.V)], -1)
    for i, (name, sources) in enumerate(reference.sources.items()):
        actual = torch.cat((own[i], own[-1][..., i : i + 1]), -1)
        # the first query sees one key, whatever it is: its gradient is rounding, and Adam divides
        # by that
        first = 1 if name.endswith("q_proj") else 0
        torch.testing.assert_close(actual[:, first:], sources.values[:, first:], atol=1e-4, rtol=0)


def test_reference_trains() -> None:
    trainer = made(adversary_extra_climbs=1, faithfulness_coefficient=1.0, clip=10.0)
    reference, ids = reference_of(trainer), parts.batch_at(0)
    draws = same_draws(trainer, ids)

    def loss() -> float:
        return reference.total(reference.losses(ids, 0.5, *draws)[0]).item()

    before = loss()
    for _ in range(20):
        reference.train_step(ids, 0.5, 1e-2)
    assert loss() < 0.7 * before
    assert reference.climbs == 1 + 20 * 2 + 1


def test_matmuls_are_counted() -> None:
    x = torch.randn(3, 4, 5, requires_grad=True)
    linear = torch.nn.Linear(5, 7)
    shapes = counted(lambda: linear(x).sum().backward(), 2)
    assert shapes.flops == shapes.float32_flops == 2 * 3 * (2 * 12 * 5 * 7)
    assert shapes.counts[(12, 5, 7)] == 2
    assert matmul_rate(shapes.counts, torch.float32, torch.device("cpu")) > 0


@pytest.mark.slow
@pytest.mark.slow
def test_one_command(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "decompose.json"
    words = ["--variants", "reference,merged", "--rows", "2", "--steps", "4", "--repeats", "1"]
    done = subprocess.run(
        [sys.executable, "benchmarks/decompose.py", *words, "--threads", "1", "--out", str(out)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())["embedded"]
    assert set(record["variants"]) == {"reference", "merged"}
    assert record["variants"]["merged"]["times_reference"] > 1
    assert max(record["agreement_float32"].values()) < 1e-2
    assert "merged" in done.stdout
