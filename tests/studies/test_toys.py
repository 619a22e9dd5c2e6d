"""The study of toys, over trainings too short to find anything."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from pd_finetune.decomposition.trainer import Trainer
from pd_finetune.studies.toys import page
from tests.studies.calling import call, listed

TINY = ["toy.training={steps: 3, samples: 8}", "recipe.steps=2", "recipe.window=8"]
TINY += ["quality.adversary_steps=2", "log_steps=1", "device=cpu"]


def test_toys_are_trained_and_scored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    options = ["variants=[tms_5_2_spd,tms_identity]", "seeds=[3]", listed("decompose", TINY)]
    options += [f"work={tmp_path / 'work'}", f"out={tmp_path / 'out'}"]
    assert call("toys", monkeypatch, *options) == 0
    rows = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert list(zip(rows["toy"], rows["site"], strict=True)) == [
        *(("tms_5_2_spd", site) for site in ("down", "up")),
        *(("tms_identity", site) for site in ("down", "identity", "up")),
    ]
    assert set(rows["seed"]) == {3}
    text = (tmp_path / "out" / "table.md").read_text()
    assert text.count("| tms_identity | ") == 3
    assert (tmp_path / "out" / "tms_5_2_spd.png").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", None)
        assert call("toys", patch, *options) == 0
    assert (tmp_path / "out" / "table.md").read_text() == text


def test_a_cell_has_the_mean_and_what_it_ranges_over() -> None:
    measures = dict.fromkeys(
        ("mean_max_cosine_start", "mean_max_cosine_columns", "mean_norm_ratio", "alive_true"), 1.0
    )
    measures |= dict.fromkeys(("important_per_feature", "important_per_feature_true"), 1.0)
    measures |= {"alive": 5, "exact_features": math.nan, "mse_fresh_adversary": 2e-4}
    frame = pd.DataFrame(
        {"toy": "t", "site": "s", "mean_max_cosine": cosine, "mse_ci_masked": mse, "mse_zero": 1.0}
        for cosine, mse in ((0.5, 1e-4), (1.0, 3e-4))
    ).assign(**measures)
    (line,) = (line for line in page(frame).splitlines() if line.startswith("| t |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:4] == ["2", "0.75 [0.5, 1]"]
    assert cells[-4:] == ["–", "2.0e-04 [1.0e-04, 3.0e-04]", "2.0e-04", "1.0e+00"]
