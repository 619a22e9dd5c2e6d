"""The plain rival of `benchmarks.sweep` is a second, literal implementation: numbers must agree."""

import sys
from pathlib import Path
from typing import Any

import pytest

import benchmarks.decompose
import benchmarks.sweep
from benchmarks.plain_run import run as plain
from benchmarks.sweep import ARMS, difference, spread
from pd_finetune.finetuning.experiment import finetune_run
from tests import composed

TINY = ["debug=tiny", "logger=none", "progress=false", "threads=1", "budget=16"]


@pytest.mark.parametrize("arm", ARMS)
def test_plain_and_package_find_the_same(arm: str, tmp_path: Any) -> None:
    words = [f"arm={arm}", *TINY, f"paths.runs={tmp_path}"]
    config = composed.stage("run", *words)
    record, _, _ = finetune_run(config)
    assert abs(record.damage_nats["de"]) > 0.01  # something was done
    assert difference(record.to_dict(), plain(words, 1)) < 2e-4


def test_spread_takes_every_arm_in_turn() -> None:
    grid = [(arm, budget, seed) for arm in ARMS for budget in (4, 64) for seed in (0, 1)]
    chosen = spread(grid, 10)
    assert len(set(chosen)) == 10
    assert [arm for arm, _, _ in chosen] == [arm for arm in ARMS for _ in range(2)]
    assert spread(grid, 99) == grid


@pytest.mark.parametrize("benchmark", [benchmarks.sweep, benchmarks.decompose])
def test_a_folder_to_write_to_is_refused_before_the_work(
    benchmark: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        benchmark.main()
    assert stopped.value.code == 2
    assert f"--out={tmp_path} is a folder: give a file" in capsys.readouterr().err
