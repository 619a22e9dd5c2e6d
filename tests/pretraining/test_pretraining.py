"""Pretraining of a tiny target: it learns, resumes to the bit, and stops on NaN."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pd_finetune.distributed import Workers
from pd_finetune.errors import TrainingError, UserError
from pd_finetune.pretraining.config import ArchitectureConfig
from pd_finetune.pretraining.initialise import build
from pd_finetune.pretraining.pretraining import Pretraining, held_out_record, validation_windows
from pd_finetune.targets.load import Target
from pd_finetune.text.mixture import mixed_windows
from tests import composed, tiny

SHAPE = ArchitectureConfig(vocab_size=320, width=16, layers=1, heads=2, mlp_width=24, context=16)


def pretraining(
    steps: int = 8, seed: int = 0, lr: float = 1e-2, workers: Workers | None = None
) -> Pretraining:
    windows = mixed_windows(tiny.tokenizer(), tiny.source(), {"de": 2, "en": 1}, 4, 17, 0)
    few = {"warmup_steps": 2, "checkpoint_steps": 1000, "validation_steps": 30}
    settings = composed.part("pretrain", "optimisation", steps=steps, batch=4, lr=lr, **few)
    target = Target(build(SHAPE, seed), tiny.tokenizer(), "tiny")
    validation = validation_windows(target, tiny.source(), ["de", "en"], rows=8)
    return Pretraining(target, windows, settings, "float32", validation, workers or Workers())


def test_it_learns_and_the_record_says_so(tmp_path: Path) -> None:
    made = pretraining(steps=60)
    before = held_out_record(made, tiny.source(), rows=8)
    made.train(tmp_path / "checkpoint.pt")
    record = held_out_record(made, tiny.source(), rows=8)
    chance = torch.tensor(320.0).log().item()
    for language in ("de", "en"):
        assert set(record[language]) == {
            *("validation_ce_nats", "test_ce_nats", "test_unigram_nats", "test_trigram_nats")
        }
        assert before[language]["test_ce_nats"] == pytest.approx(chance, abs=0.1)
        assert record[language]["test_ce_nats"] < chance - 0.5
        # the splits of this source are one text: the trigram has seen it all
        assert record[language]["test_trigram_nats"] < record[language]["test_unigram_nats"]
    assert [row["step"] for row in made.history if "train_ce_nats" in row] == [50]
    watched = [row for row in made.history if "validation_ce_nats_de" in row]
    assert [row["step"] for row in watched] == [30, 60]
    assert watched[1]["validation_ce_nats_en"] < watched[0]["validation_ce_nats_en"]
    assert made.model.training is False  # the record is of the model as it will be used


def test_resume_is_bit_identical(tmp_path: Path) -> None:
    whole = pretraining()
    whole.train(tmp_path / "whole.pt")
    cut = pretraining()
    cut.model.train()
    for _ in range(3):
        cut.train_step(cut.model.base_model)
    cut.save(tmp_path / "cut.pt")
    again = pretraining(seed=1)  # another start, overwritten by the checkpoint
    again.train(tmp_path / "cut.pt")
    assert again.step == whole.step == 8
    for (name, one), other in zip(
        whole.model.named_parameters(), again.model.parameters(), strict=True
    ):
        assert torch.equal(one, other), name


def test_schedule_is_a_trapezoid() -> None:
    made = pretraining(steps=100, lr=1.0)
    assert made.lr_at(0) == pytest.approx(0.5)
    assert {made.lr_at(step) for step in range(1, 71)} == {1.0}
    assert made.lr_at(85) == pytest.approx(0.5)
    assert made.lr_at(100) == 0.0


def test_nan_stops(tmp_path: Path) -> None:
    made = pretraining()
    made.train_step(made.model.base_model)
    with torch.no_grad():
        made.model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="loss is nan at step 1: lower optimisation.lr"):
        made.train(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("kind", ["broken", "another architecture"])
def test_a_checkpoint_that_does_not_fit(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    if kind == "broken":
        path.write_bytes(b"hello")
    else:
        made = pretraining()
        made.model = build(ArchitectureConfig(320, 16, 2, 2, 24, 16), 0)
        made.save(path)
    with pytest.raises(UserError, match="checkpoint"):
        pretraining().train(path)
