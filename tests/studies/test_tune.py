"""Tuning: which settings are tried, that they are kept, and that none is tried twice."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from pd_finetune.finetuning import experiment
from pd_finetune.finetuning.config import RunConfig
from pd_finetune.results.tuning import read_trials
from tests.studies.calling import call

pytestmark = pytest.mark.usefixtures("own_cache")
GRID = "grid=[{key: method.lr, values: [0.1, 0.4], cross: [0.5, 2]}"
GRID += ", {key: method.kl_weight, values: [1, 3], cross: [0.333, 3.33], digits: 1}]"


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """Configs of all fine-tunes, which cost nothing: short of chance by the distance from one."""
    configs = []

    def finetune_run(config: RunConfig) -> tuple[Any, None, bool]:
        configs.append(config)
        lr, kl_weight = config.method.lr, config.method.kl_weight
        third = getattr(config.method, "start", getattr(config.method, "alpha", 0.0))
        short = math.log(lr / 0.8) ** 2 + math.log(kl_weight / 10) ** 2 + 0.1 * abs(third)
        record = SimpleNamespace(
            config={"method": {"lr": lr}, "objective": {"kl_weight": config.objective.kl_weight}},
            to_chance_nats=short + 0.01 * (config.seed - 1000),
            damage_nats={"en": 0.2, "de": 9.0},
            protected_languages=["en"],
        )
        return record, None, True

    monkeypatch.setattr(experiment, "finetune_run", finetune_run)
    return configs


def test_every_arm_has_the_same_trials_about_its_own_values(
    tried: list[RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["~bands", "+bands={16: 64}", GRID, f"work={tmp_path}", f"out={tmp_path / 'out'}"]
    assert call("tune", monkeypatch, *words, "arms=[one_scalar,lora_r4]") == 0
    # 4 of the grid, 5 about the best with two samples (two are known), 2 of a third key
    assert len(tried) == 2 * (4 + 5 * 2 - 2 + 2 * 2)
    assert {c.evaluation.split for c in tried} == {"validation"}
    assert {(c.budget, *c.languages.all) for c in tried} == {(64, "de", "en")}
    assert {c.seed for c in tried[:4]} == {1000} and {c.seed for c in tried[4:12]} == {1000, 1001}
    trials = read_trials(tmp_path / "out")
    assert len(trials) == len(tried)
    scalar = trials[trials["arm"] == "one_scalar"]
    assert set(scalar["also"]) == {"start=-1.0", "start=0.0", "start=-4.0"}
    assert set(trials[trials["arm"] == "lora_r4"]["also"]) == {
        "alpha=4.0",
        "alpha=1.0",
        "alpha=16.0",
    }
    settings = set(zip(scalar["lr"], scalar["kl_weight"], strict=True))
    corners = {(0.1, 1.0), (0.1, 3.0), (0.4, 1.0), (0.4, 3.0)}
    assert settings == corners | {(0.2, 3.0), (0.8, 3.0), (0.4, 10.0)}
    # of them all 0.4 x 10 is nearest to what was made best; then the start at 0
    said = [line for line in capsys.readouterr().out.splitlines() if "budgets from 16" in line]
    assert "one_scalar" in said[0] and "lr=0.4 method.kl_weight=10.0 method.start=0.0:" in said[0]
    # one that is not of this search stays in the table
    path = tmp_path / "out" / "one_scalar.csv"
    table = pd.read_csv(path)
    pd.concat([table, table[:1].assign(lr=7.0)]).to_csv(path, index=False)
    assert call("tune", monkeypatch, *words, "arms=[one_scalar]") == 0
    assert len(pd.read_csv(path)) == len(table) + 1


def test_an_arm_is_tuned_and_its_runs_are_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["arms=[one_scalar]", "~bands", "+bands={1: 2}", "seeds=[1000]", "run=['debug=tiny']"]
    words += ["grid=[{key: method.lr, times: [1, 2]}]", "third=[{key: method.start, values: [0]}]"]
    words += [f"work={tmp_path / 'work'}", f"out={tmp_path / 'out'}"]
    assert call("tune", monkeypatch, *words) == 0
    path = tmp_path / "out" / "one_scalar.csv"
    table = pd.read_csv(path)
    assert len(table) == 3 == len(list((tmp_path / "work").iterdir()))
    assert table["to_chance_nats"].nunique() == 3 and set(table["lr"]) == {0.4, 0.8}
    path.unlink()
    monkeypatch.setattr(experiment, "load_setting", None)
    assert call("tune", monkeypatch, *words) == 0
    pd.testing.assert_frame_equal(pd.read_csv(path), table)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("arms=[one_scaler]", "arm=one_scaler: did you mean one_scalar?"),
        ("run=['evaluation.split=test']", "run: evaluation.split=test: settings are chosen on"),
        ("run=['modle=x']", "unknown key modle"),
        ("grid=[{key: method.rank, values: [1]}]", "grid: method.rank is no number of arm=one"),
        ("third=[{key: method.alpha, times: [2]}]", "third: arm=one_scalar has none of method.al"),
        ("grid=[{values: [1]}]", "grid[0].key is missing"),
        ("seeds=[]", "seeds is empty"),
    ],
)
def test_mistakes_take_one_line(
    given: str,
    message: str,
    tried: list[RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["arms=[one_scalar]", f"work={tmp_path}", f"out={tmp_path / 'out'}"]
    assert call("tune", monkeypatch, *words, given) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not tried
