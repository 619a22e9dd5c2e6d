"""Trainings side by side, from their records."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.decomposition import parts
from tests.studies.calling import call, listed

pytestmark = pytest.mark.usefixtures("own_cache")


def test_trainings_are_put_side_by_side_from_their_records(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seeds = [tmp_path / "seed1", tmp_path / "seed2"]
    for seed, folder in enumerate(seeds, 1):
        parts.run_stage("decompose", [*words, f"seed={seed}", f"out={folder}"])
    out, options = f"out={tmp_path / 'out'}", listed("decompositions", seeds)
    assert call("training_curves", monkeypatch, out, options) == 0
    record = json.loads((seeds[1] / "decomposition.json").read_text())
    curves = pd.read_csv(tmp_path / "out" / "training.csv")
    assert list(curves["decomposition"]) == ["seed1"] * 10 + ["seed2"] * 10
    own = curves[curves["decomposition"] == "seed2"]
    assert list(own["ci_l0"]) == pytest.approx([line["ci_l0"] for line in record["history"]])
    (line,) = [
        row for row in (tmp_path / "out" / "training.md").read_text().splitlines() if "seed2" in row
    ]
    assert line in capsys.readouterr().out
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "10" and float(cells[3]) == pytest.approx(record["evidence"]["ci_l0"], abs=1)
    assert float(cells[7]) == pytest.approx(record["evidence"]["kl_nats"]["stochastic"], rel=0.01)
    record["history"] = []
    (seeds[1] / "decomposition.json").write_text(json.dumps(record))
    assert call("training_curves", monkeypatch, out, options) == 2
    assert "has no history" in capsys.readouterr().err
    options = listed("decompositions", [seeds[0], tmp_path / "nowhere"])
    assert call("training_curves", monkeypatch, out, options) == 2
    assert "nowhere" in capsys.readouterr().err
