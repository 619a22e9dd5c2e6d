"""Matching decompositions that are known to be the same, or of other text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from pd_finetune.selection.store import Harvest
from pd_finetune.studies.harvested import Harvested
from pd_finetune.studies.matching import mean_cis
from tests.studies.calling import call, listed

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_decomposition_is_stable_against_itself(
    start: Path,
    slimmed: tuple[Path, Path],
    shared: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def compared(other: Path, out: str, *words: str) -> int | str | None:
        given = [*shared, listed("decompositions", [start, other]), f"out={tmp_path / out}"]
        return call("stability", monkeypatch, *given, "rows_per_language=4", *words)

    shutil.copytree(start, tmp_path / "copy")
    assert compared(tmp_path / "copy", "out") == 0
    found = pd.read_csv(tmp_path / "out" / "stability_1.csv")
    assert (found["match"] == found["index"]).all() and found["mutual"].all()
    assert found["cosine"].to_numpy() == pytest.approx(1.0, abs=1e-5)
    assert set(found["pair"]) == {f"{start.name}, copy"}
    page = (tmp_path / "out" / "stability.md").read_text()
    assert f"| all | {len(found)} | 1.00 |" in page and page in capsys.readouterr().out
    assert compared(tmp_path / "copy", "o", "languages.target=xx") == 2
    assert "languages.target=xx: possible are de, en" in capsys.readouterr().err
    # two steps of training lead nowhere
    assert (found["start_cosine"] > 0.9).all() and (found["start_cosine"] < 1 - 1e-9).any()
    varying = found[found["best_correlation"] > 0]
    assert len(varying) and varying["correlation"].to_numpy() == pytest.approx(1.0, abs=1e-5)
    # of what ships of other seeds there are no correlations, and a cosine in 16 bits
    assert compared(slimmed[1], "again") == 0
    again = pd.read_csv(tmp_path / "again" / "stability_1.csv")
    assert list(again["match"]) == list(found["match"])
    assert again["cosine"].to_numpy() == pytest.approx(1.0, abs=1e-4)
    assert again["correlation"].isna().all()
    assert "| – | – | – |" in (tmp_path / "again" / "stability.md").read_text()
    # harvests of other text, of other languages, or none
    shutil.copytree(start, tmp_path / "other")
    path = tmp_path / "other" / "harvest" / "harvest.json"
    config = json.loads(path.read_text())
    for change, message in (
        ({"hashes": config["hashes"] | {"text": {"de": "another"}}}, "other languages or text"),
        ({"languages": ["en"]}, "is of en, not of 'de'"),
    ):
        path.write_text(json.dumps(config | change))
        assert compared(tmp_path / "other", "o") == 2
        assert message in capsys.readouterr().err
    path.unlink()
    assert compared(tmp_path / "other", "o") == 2
    assert "no harvest in" in capsys.readouterr().err
    assert call("stability", monkeypatch, "decompositions=[embedded]") == 2
    assert "decompositions: give two or more" in capsys.readouterr().err


def test_those_for_one_language_alone_are_taken_from_the_harvest() -> None:
    table = pd.DataFrame(
        {
            "site": ["a", "a", "b"],
            "index": [1, 0, 0],
            "mean_ci": [0.1, 0.2, 0.3],
            "exclusive": [True, False, True],
            "top_language": ["de", "en", "fr"],
        }
    )
    harvest = Harvest(table, table, table, {})
    found = Harvested("x", None, harvest)  # type: ignore[arg-type]
    assert found.exclusive() == {("a", 1): "de", ("b", 0): "fr"}
    means = {site: values.tolist() for site, values in mean_cis(harvest).items()}
    assert means == {"a": [0.2, 0.1], "b": [0.3]}
