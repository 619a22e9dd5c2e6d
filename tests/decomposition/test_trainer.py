"""Training a tiny decomposition: it learns, resumes to the bit, and stops in plain words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pd_finetune.decomposition.config import DecomposeConfig
from pd_finetune.decomposition.step import StepLoss
from pd_finetune.decomposition.trainer import Trainer
from pd_finetune.errors import TrainingError, UserError
from tests import tiny
from tests.decomposition import parts

ROOT = Path(__file__).parents[2]
RECIPES: dict[str, dict[str, Any]] = {
    "merged": {},
    "paper": parts.PAPER,
    "no adversary": {"adversary": False},
}


def trainer(folder: Path, config: DecomposeConfig, seed: int = 0) -> Trainer:
    return Trainer(tiny.target(seed), config, parts.batch_at, folder)


def state(of: Trainer) -> dict[str, Tensor]:
    """All that training changes, by name."""
    found: dict[str, Tensor] = {}
    modules = {
        "components": of.components,
        "ci": of.ci_function,
        "sources": of.maker.sources,
        "frequency": of.maker.frequency,
    }
    for prefix, module in modules.items():
        if module is not None:
            found |= {f"{prefix}.{k}": v.clone() for k, v in module.state_dict().items()}
    for index, moments in of.optimiser.state_dict()["state"].items():
        found |= {f"adam.{index}.{k}": v.clone() for k, v in moments.items()}
    return found


# one repeated batch and an annealing that stands still, so that losses compare
STILL: dict[str, Any] = {
    "lr": 1e-2,
    "lr_final_fraction": 1.0,
    "gamma_end": 1.0,
    "p_end": 2.0,
    "frequency_coefficient": 1e-6,
    "clip": 10.0,
    "faithfulness_coefficient": 1.0,
}


def averages(folder: Path, steps: int, sites: dict[str, int], **recipe: Any) -> dict[str, Any]:
    """Each term's mean over the first and over the last six steps."""
    config = parts.config(steps, sites, **STILL, **recipe)
    made = Trainer(tiny.target(), config, lambda _: parts.batch_at(0), folder)
    losses = [made.train_step().terms for _ in range(steps)]
    return {
        term: [sum(loss[term] for loss in some) / 6 for some in (losses[:6], losses[-6:])]
        for term in ("stochastic_kl_nats", "adversarial_kl_nats", "minimality")
    }


@pytest.mark.parametrize("name", ["merged", "paper"])
def test_training_lowers_reconstruction(name: str, tmp_path: Path) -> None:
    terms = averages(tmp_path, 30, parts.SITES, minimality_coefficient=1e-5, **RECIPES[name])
    for term in ("stochastic_kl_nats", "adversarial_kl_nats"):
        start, end = terms[term]
        assert 0 < end < 0.5 * start


@pytest.mark.parametrize("name", ["merged", "paper"])
def test_training_lowers_minimality(name: str, tmp_path: Path) -> None:
    sites = {"h.1.mlp.c_fc": 20}
    start, end = averages(tmp_path, 20, sites, minimality_coefficient=1.0, **RECIPES[name])[
        "minimality"
    ]
    assert 0 <= end < 0.7 * start


def test_the_target_is_not_touched(tmp_path: Path) -> None:
    made = trainer(tmp_path, parts.config(3))
    before = {name: p.clone() for name, p in made.target.model.named_parameters()}
    for _ in range(3):
        made.train_step()
    for name, parameter in made.target.model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("stop", [3, 7])
def test_resume_is_bit_identical(name: str, stop: int, tmp_path: Path) -> None:
    config = parts.config(10, **RECIPES[name])
    whole = trainer(tmp_path / "whole", config)
    (tmp_path / "whole").mkdir()
    start = state(whole)
    whole.train(progress=False)
    (tmp_path / "cut").mkdir()
    first = trainer(tmp_path / "cut", config)
    for _ in range(stop):
        first.train_step()
    first.save(first.checkpoint)
    second = trainer(tmp_path / "cut", config)
    with torch.no_grad():  # nothing of a fresh trainer's start may survive the load
        for parameter in (*second.components.parameters(), *second.ci_function.parameters()):
            parameter.zero_()
    torch.manual_seed(12345)
    second.train(progress=False)
    assert (whole.step, second.step) == (10, 10)
    one, other = state(whole), state(second)
    assert set(one) == set(other)
    assert [key for key in one if not torch.equal(one[key], other[key])] == []
    moved = [key for key in start if not torch.equal(one[key], start[key])]
    assert set(moved) >= {key for key in start if not key.startswith("frequency")}


def test_history_and_metrics_file(tmp_path: Path) -> None:
    made = trainer(tmp_path, parts.config(12))
    made.train(progress=False)
    assert [row["step"] for row in made.history] == [5, 10, 12]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == made.history
    for row in rows:
        assert {"stochastic_kl_nats", "adversarial_kl_nats", "minimality", "frequency"} <= set(row)
        assert row["tokens_per_second"] > 0


def test_schedule() -> None:
    made = trainer(Path(), parts.config(100, lr=2e-3, lr_final_fraction=0.1))
    assert made.lr_at(0) == pytest.approx(2e-3)
    assert made.lr_at(50) == pytest.approx(1.1e-3)
    assert made.lr_at(100) == pytest.approx(2e-4)


@pytest.mark.parametrize(
    ("other", "seed"),
    [
        (parts.config(12, minimality_coefficient=1e-3), 0),
        (parts.config(13), 0),
        (parts.config(12, sites={"h.*.attn.v_proj": 9, "h.1.mlp.c_fc": 20}), 0),
        (parts.config(12), 1),
    ],
    ids=["recipe", "steps", "sites", "target"],
)
def test_checkpoint_of_something_else_is_refused(
    other: DecomposeConfig, seed: int, tmp_path: Path
) -> None:
    made = trainer(tmp_path, parts.config(12))
    made.save(made.checkpoint)
    before = made.checkpoint.read_bytes()
    with pytest.raises(UserError, match="another target or configuration.*out="):
        trainer(tmp_path, other, seed).train(progress=False)
    assert made.checkpoint.read_bytes() == before


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "foreign"])
def test_broken_checkpoint(kind: str, tmp_path: Path) -> None:
    made = trainer(tmp_path, parts.config(12))
    made.save(made.checkpoint)
    whole = made.checkpoint.read_bytes()
    content = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}
    if kind == "foreign":  # `pretrain` writes a file of this name, too
        torch.save({"model": {}, "step": 3}, made.checkpoint)
    else:
        made.checkpoint.write_bytes(content[kind])
    with pytest.raises(UserError, match="checkpoint.pt"):
        trainer(tmp_path, parts.config(12)).train(progress=False)


@pytest.mark.parametrize("recipe", ["merged", "paper"])
def test_nan_names_step_and_term(recipe: str, tmp_path: Path) -> None:
    made = trainer(tmp_path, parts.config(12, **RECIPES[recipe]))
    for _ in range(3):
        made.train_step()
    with torch.no_grad():
        made.components.U("h.1.mlp.c_fc")[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="^[a-z]*_kl_nats is nan at step 3;.*none.*recipe.lr"):
        made.train_step()
    made.save(made.checkpoint)
    with torch.no_grad():
        made.components.U("h.1.mlp.c_fc")[0, 0] = 1e30
        made.components.V("h.1.mlp.c_fc")[0, 0] = 1e30
    with pytest.raises(TrainingError, match="at step 3; last good checkpoint: .*checkpoint.pt"):
        made.train_step()


def test_no_checkpoint_after_a_gradient_that_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(tmp_path, parts.config(12))
    made.config.checkpoint_steps = 1
    plain = made.maker._loss

    def loss(*arguments: Any) -> StepLoss:
        result = plain(*arguments)
        if made.step == 3:  # finite by value, not by slope
            result.total = result.total + (made.components.V("h.1.mlp.c_fc") * 0).sqrt().sum()
        return result

    monkeypatch.setattr(made.maker, "_loss", loss)
    with pytest.raises(TrainingError, match="step 3"):
        made.train(progress=False)
    kept = torch.load(made.checkpoint, weights_only=True)
    assert kept["step"] == 3
    assert all(value.isfinite().all() for value in kept["components"].values())


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 60
    words = parts.overrides(
        parts.model_folder(tmp_path / "model"), parts.text_folder(tmp_path / "text")
    )
    words += [f"recipe.steps={steps}", "checkpoint_steps=7"]
    cache = tmp_path / "cache"
    cut, whole = tmp_path / "cut" / "d", tmp_path / "whole" / "d"
    killed = subprocess.Popen(
        [sys.executable, "-m", "pd_finetune.decompose", *words, f"out={cut}"],
        env={**os.environ, "PD_FINETUNE_CACHE": str(cache), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (cut / "checkpoint.pt").is_file() and time.monotonic() < deadline:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(60) == -signal.SIGKILL
    assert killed.stderr is not None
    killed.stderr.close()
    assert 0 < torch.load(cut / "checkpoint.pt", weights_only=True)["step"] < steps
    assert not (cut / "decomposition.safetensors").exists()

    monkeypatch.setenv("PD_FINETUNE_CACHE", str(cache))
    for folder in (cut, whole):
        parts.run_stage("decompose", [*words, f"out={folder}"])
    name = "decomposition.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()
    records = [json.loads((folder / "decomposition.json").read_text()) for folder in (cut, whole)]
    assert records[0]["evidence"] == records[1]["evidence"]
