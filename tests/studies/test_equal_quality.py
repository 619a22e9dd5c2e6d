"""Recipes compared at equal sparsity, over tiny decompositions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from pd_finetune.decomposition.trainer import Trainer
from pd_finetune.studies.equal_quality import at_equal_l0
from tests.studies.calling import call, listed

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def speed(tmp_path: Path) -> Path:
    """A record by which a step of the rival takes four times as long."""
    path = tmp_path / "speed.json"
    seconds = {"reference": 2.0, "merged": 0.5}
    variants = {
        name: {"step_seconds": value, "step_seconds_of_turns": [0.9 * value, 1.1 * value]}
        for name, value in seconds.items()
    }
    record = {"variants": variants, "threads": 3, "machine": {"load_before": 0.25}}
    path.write_text(json.dumps({"embedded": record}))
    return path


def test_recipes_are_compared_at_equal_sparsity_in_a_share_of_the_time(
    words: list[str], speed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [word for word in words if not word.startswith(("start_from", "recipe.steps"))]
    options = [f"work={tmp_path / 'work'}", f"out={tmp_path / 'out'}", f"speed={speed}", "steps=6"]
    options += ["shares=[2]", "lrs=[1e-3,3e-3]", "coefficients=[1e-4,1e-3]"]
    options += ["rivals=[{lr: 1e-3, minimality: 2e-4}, {lr: 3e-3, minimality: 1e-3}]"]
    options += [listed("decompose", [*own, "recipe.window=10"])]
    assert call("equal_quality", monkeypatch, *options, "only=[paper-lr0.001-m0.0002-6]") == 0
    assert not list((tmp_path / "out").iterdir())
    assert call("equal_quality", monkeypatch, *options) == 0
    rows = pd.read_csv(tmp_path / "out" / "equal_quality.csv")
    # a half of the time at four times the speed: twice the steps
    assert list(rows["steps"]) == [6, 6] + [12] * 4
    assert rows["minutes"].to_numpy() == pytest.approx([0.2, 0.2] + [0.1] * 4)
    for row in rows.to_dict("records"):
        name = f"{row['recipe']}-lr{row['lr']:g}-m{row['coefficient']:g}-{row['steps']}"
        record = json.loads((tmp_path / "work" / name / "decomposition.json").read_text())
        recipe, evidence = record["config"]["recipe"], record["evidence"]
        assert recipe["recon"] == {"paper": "separate", "merged": "merged"}[row["recipe"]]
        assert (recipe["steps"], recipe["lr"]) == (row["steps"], row["lr"])
        assert recipe["minimality_coefficient"] == row["coefficient"]
        assert row["kl_stochastic"] == pytest.approx(evidence["kl_nats"]["stochastic"])
        if row["recipe"] == "merged":
            ratio = recipe["frequency_coefficient"] / recipe["minimality_coefficient"]
            assert ratio == pytest.approx(1 / 3, rel=1e-3)
    page = (tmp_path / "out" / "equal_quality.md").read_text()
    how = "3 threads, 1.80 to 2.20 and 0.45 to 0.55 s a step over 2 turns, load 0.2 beforehand"
    assert how in page
    assert page.count("| `merged` | 1/2 |") == 4 and page.count("| 1/2 | ") == 4 + 4
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", None)
        assert call("equal_quality", patch, *options) == 0


def test_kl_at_equal_sparsity_lies_on_the_straight_line_of_logarithms() -> None:
    curve = pd.DataFrame({"ci_l0": [400.0, 100.0], "kl_x": [0.1, 0.4]})
    assert at_equal_l0(curve, 200.0, "kl_x") == pytest.approx(0.2)
    assert at_equal_l0(curve, 100.0, "kl_x") == pytest.approx(0.4)
    assert math.isnan(at_equal_l0(curve, 401.0, "kl_x"))
    assert math.isnan(at_equal_l0(curve, 99.0, "kl_x"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("speed=nowhere.json", "speed=nowhere.json has no times of reference and merged"),
        ("rival=paper", "has no times of paper and merged"),
        ("only=[x]", "only=x: possible are paper-lr0.001-m0.0002-6, "),
        ("rivals=[{lr: 1e-3}]", "rivals[0].minimality is missing"),
        ("shares=[1]", "shares[0]=1.0 must be above 1"),
        ("decompose=['recipe.lr=1']", "recipe.lr=1: this study sets it"),
        ("decompose=['start_from=embedded']", "this study sets it, or it has no place here"),
    ],
)
def test_a_wrong_comparison_is_refused(
    given: str,
    message: str,
    speed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [f"speed={speed}", "steps=6", f"out={tmp_path / 'o'}", f"work={tmp_path / 'w'}"]
    if given.startswith("speed"):
        options.pop(0)
    assert call("equal_quality", monkeypatch, *options, given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
