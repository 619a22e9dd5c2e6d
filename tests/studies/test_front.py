"""The front over tiny decompositions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from pd_finetune.decomposition.config import DecomposeConfig
from pd_finetune.decomposition.trainer import Trainer
from pd_finetune.studies import front, trainings
from pd_finetune.studies.training_curves import change
from tests.studies.calling import call, listed

COEFFICIENTS = "coefficients=[1e-4,1e-3]"

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_front_is_trained_measured_and_written_once(
    words: list[str], shared: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    options = [f"work={work}", f"out={out}", COEFFICIENTS]
    options += [listed("decompose", words), listed("quality", shared)]
    assert call("front", monkeypatch, *options, "only=[m0.001]") == 0
    assert (work / "m0.001" / "quality" / "quality.json").is_file()
    assert not (work / "m0.0001").exists() and not list(out.iterdir())
    assert call("front", monkeypatch, *options) == 0
    points = pd.read_csv(out / "front.csv")
    assert list(points["coefficient"]) == [1e-4, 1e-3]
    assert points["frequency"].to_numpy() == pytest.approx(points["coefficient"].to_numpy() / 3)
    assert set(points["steps"]) == {10}
    numbers = points[[c for c in points if c.startswith(("kl", "ci_l0", "alive"))]]
    assert numbers.notna().all(axis=None) and (numbers >= -1e-6).all(axis=None)
    for coefficient in (1e-4, 1e-3):
        folder = work / f"m{coefficient:g}"
        record = json.loads((folder / "decomposition.json").read_text())
        assert record["config"]["recipe"]["minimality_coefficient"] == coefficient
        assert record["config"]["start_from"] in words[-3]
        start = Path(record["config"]["start_from"]) / "decomposition.json"
        assert record["start_hash"] == json.loads(start.read_text())["weights_sha256"]
        quality = json.loads((folder / "quality" / "quality.json").read_text())
        row = points[points["coefficient"] == coefficient].iloc[0]
        assert row["kl_stochastic"] == pytest.approx(quality["kl"]["stochastic"]["nats"])
        assert row["ci_l0"] == pytest.approx(quality["ci_l0"])
    curves = pd.read_csv(out / "curves.csv")
    assert len(curves) == 20 and set(curves["step"]) == set(range(1, 11))
    page = (out / "front.md").read_text()
    assert "10 steps each" in page and "| 0.001 |" in page.replace("**", "")
    assert {p.name for p in out.iterdir()} >= {"front.png", "front.svg", "curves.png"}
    # again: nothing is trained, and the same is written
    before = (out / "front.csv").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", None)
        assert call("front", patch, *options) == 0
    assert (out / "front.csv").read_bytes() == before
    # another start of the same name is another decomposition, and so is another seed
    record = json.loads((work / "m0.001" / "decomposition.json").read_text())
    given = [*front.words_of(1e-3), *words, "out=x"]
    config = trainings.composed("decompose", DecomposeConfig, given)
    assert trainings._same(record, config)
    assert not trainings._same(record | {"start_hash": "another"}, config)
    other = trainings.composed("decompose", DecomposeConfig, [*given, "seed=1"])
    assert not trainings._same(record, other)


def test_what_fails_is_named_and_no_front_is_written(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    wrong = [word for word in words if not word.startswith("ci_function")]
    options = [f"work={tmp_path / 'work'}", f"out={out}", "coefficients=[1e-3]"]
    assert call("front", monkeypatch, *options, listed("decompose", wrong)) == 1
    error = capsys.readouterr().err
    assert "error: m0.001: start_from has a causal-importance function" in error
    assert "error: nothing is written: it would lack m0.001" in error
    assert not (out / "front.md").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("decompose=['recipe.stpes=3']", "unknown key recipe.stpes: did you mean steps?"),
        ("decompose=['recipe.steps=abc']", "abc"),
        ("decompose=['recipe.steps']", "cannot read 'recipe.steps'"),
        ("decompose=['out=here']", "decompose: out=here: this study sets it"),
        ("only=[m0.3]", "only=m0.3: possible are m0.0001, m0.001"),
        ("out=/proc/nope", "/proc/nope"),
        ("coefficients=[0]", "coefficients[0]=0.0 must be above 0"),
    ],
)
def test_mistakes_take_one_line(
    given: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [f"work={tmp_path / 'w'}", f"out={tmp_path / 'o'}", COEFFICIENTS]
    assert call("front", monkeypatch, *options, given) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "w").exists()


def points(stochastic: list[float], l0: list[float]) -> pd.DataFrame:
    coefficients = [10.0**-i for i in range(len(l0))]
    columns = {"coefficient": coefficients, "ci_l0": l0, "kl_stochastic": stochastic}
    return pd.DataFrame(columns).assign(kl_zero=10.0)


def test_the_rule_takes_the_sparsest_that_is_good_enough() -> None:
    assert front.choose(points([0.3, 0.2, 0.1], [5.0, 20.0, 30.0])) == pytest.approx(0.1)
    assert front.choose(points([0.3, 0.2, 0.1], [5.0, 40.0, 30.0])) == pytest.approx(0.01)
    assert front.choose(points([0.3, 0.21], [5.0, 20.0])) is None


def test_change_compares_the_halves_of_the_last_fifth() -> None:
    curve = pd.DataFrame({"step": range(1, 11), "ci_l0": [9.0] * 8 + [4.0, 5.0]})
    assert change(curve, "ci_l0") == pytest.approx(0.25)
    assert math.isnan(change(curve[:1], "ci_l0"))
    assert math.isnan(change(curve, "adversarial_kl_nats"))
