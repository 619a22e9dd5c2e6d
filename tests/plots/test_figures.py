"""Figures show the numbers beside them, exactly; the stage refuses what it cannot draw."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from pd_finetune.errors import UserError
from pd_finetune.figures import run
from pd_finetune.plots import budgets, off_target, scalars, style, tradeoff
from pd_finetune.plots.lines import spread
from pd_finetune.records.record import RunRecord
from pd_finetune.report.config import FiguresConfig
from pd_finetune.results.frame import runs_frame
from pd_finetune.results.summary import summarise
from tests import composed
from tests.plots import synthetic
from tests.plots.synthetic import ARMS, LABELS

NAMES = (
    "to_chance",
    "damage",
    "other_damage",
    "tradeoff",
    "off_target",
    "tokens_to_target",
    "scalars",
)


def _figures(runs: str, out: str, **values: Any) -> FiguresConfig:
    return replace(composed.stage("figures"), runs=runs, out=out, **values)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return runs_frame(synthetic.records())


@pytest.fixture(scope="module")
def summary(frame: pd.DataFrame) -> pd.DataFrame:
    return summarise(frame)


def write(root: Path, records: list[RunRecord]) -> None:
    for number, record in enumerate(records):
        (root / f"{number:03}").mkdir(parents=True)
        (root / f"{number:03}" / "config.yaml").touch()
        record.write(root / f"{number:03}" / "result.json")


# ------------------------------------------------------------------ off-target: the true means


def test_bars_are_the_true_means_from_zero(frame: pd.DataFrame, summary: pd.DataFrame) -> None:
    """Goodfire's first plot drew such bars 0.01 nats above the true means."""
    drawing = off_target.draw(frame, summary)
    (axes,) = drawing.figure.axes
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(bars) == len(drawing.numbers) == len(ARMS) * 5
    for bar, row in zip(bars, drawing.numbers.itertuples(), strict=True):
        own = frame[(frame["arm"] == row.arm) & (frame["budget"] == row.budget)]
        assert len(own) == 5
        true = np.mean(own[f"damage_{row.language}_nats"].to_numpy())
        assert bar.get_y() == 0.0
        assert bar.get_height() == row.mean == true
    assert axes.get_ylim()[0] <= 0.0 <= axes.get_ylim()[1]
    assert axes.get_yscale() == "linear"


def test_bars_stand_where_the_arm_first_reaches_chance(
    frame: pd.DataFrame, summary: pd.DataFrame
) -> None:
    table = off_target.table(frame, summary)
    found = table.groupby("arm")["budget"].first()
    for arm in ARMS:
        gaps = frame[frame["arm"] == arm].groupby("budget")["to_chance_nats"].median()
        reached = gaps[gaps <= 0.1]
        assert found[arm] == (reached.index[0] if len(reached) else gaps.idxmin())
    few = frame[frame["budget"] <= 4]
    drawing = off_target.draw(few, summarise(few))
    labels = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert "LoRA r1, 4 tokens, 3.01 nats short at best" in labels
    assert "top 16, 4 tokens" in labels
    (axes,) = drawing.figure.axes
    marked = {bar.get_hatch() for bar in axes.patches[5:15]}  # top 16, then LoRA r1
    assert [bar.get_hatch() for bar in axes.patches[5:10]] == [None] * 5 and len(marked) == 2


# ------------------------------------------------------------------ lines


@pytest.mark.parametrize(
    "name", ["to_chance_nats", "protected_damage_nats", "off_target_damage_nats"]
)
def test_lines_are_the_medians(name: str, frame: pd.DataFrame, summary: pd.DataFrame) -> None:
    drawing = budgets.draw(frame, summary, name)
    assert drawing is not None
    (axes,) = drawing.figure.axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 4]
    assert len(lines) == len(ARMS)
    for arm, line in zip(ARMS, lines, strict=True):
        medians = frame[frame["arm"] == arm].groupby("budget")[name].median()
        assert list(line.get_xdata()) == [1, 4, 16, 64]
        assert list(line.get_ydata()) == medians.tolist()
    assert axes.get_xscale() == "log"
    assert "German training tokens" in axes.get_xlabel() and "nats" in axes.get_ylabel()
    assert set(LABELS) <= {text.get_text() for text in axes.texts}
    assert {0.0, 0.1} <= {float(line.get_ydata()[0]) for line in axes.lines}


def test_tradeoff_joins_points_in_order_of_budget(
    frame: pd.DataFrame, summary: pd.DataFrame
) -> None:
    drawing = tradeoff.draw(runs_frame(synthetic.records()[::-1]), summary)
    (axes,) = drawing.figure.axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 4]
    for arm, line in zip(ARMS, lines, strict=True):
        medians = frame[frame["arm"] == arm].groupby("budget").median(numeric_only=True)
        assert list(line.get_xdata()) == medians["target_ce_nats"].tolist()
        assert list(line.get_ydata()) == medians["damage_en_nats"].tolist()
    assert synthetic.CHANCE in [line.get_xdata()[0] for line in axes.lines]


def test_scalars_show_every_run(frame: pd.DataFrame) -> None:
    drawing = scalars.draw(frame)
    assert drawing is not None and len(drawing.numbers) == 20
    assert set(drawing.numbers["arm"]) == {"one_scalar"}
    row = drawing.numbers.iloc[7]
    record = synthetic.record("one_scalar", int(row["budget"]), int(row["seed"]))
    assert record.masks == {row["key"]: row["m_c"]}
    assert scalars.draw(frame[frame["arm"] == "lora_r1"]) is None


# ------------------------------------------------------------------ shared style


def test_arms_keep_their_look_and_differ() -> None:
    records = synthetic.records(("lora_r1", "one_scalar"), (4,), 1)
    alone = style.looks(runs_frame(records[:1]))
    both = style.looks(runs_frame([*records, replace(records[0], arm="x")]))
    assert alone["lora_r1"] == both["lora_r1"]
    assert len(set(both.values())) == 3


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([0.5, 0.1], [0.5, 0.1]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.0, 0.0, 0.05], [0.0, 0.1, 0.2]),
        ([1.0, 0.98, 0.2], [1.0, 0.9, 0.2]),
    ],
)
def test_labels_keep_apart(places: list[float], expected: list[float]) -> None:
    assert spread(places, 0.1) == pytest.approx(expected)


# ------------------------------------------------------------------ the stage


def test_stage_writes_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = synthetic.records(("one_scalar", "lora_r1"), (1, 4), 2)
    write(tmp_path / "runs", [*records, synthetic.record(status="failed", seed=9)])
    out = run(_figures(str(tmp_path / "runs"), str(tmp_path / "out")))
    assert {path.name for path in out.iterdir()} == {
        *(f"{name}.{kind}" for name in NAMES for kind in ("png", "svg", "csv")),
        *("runs.csv", "summary.csv", "table.md", "headline.md", "headline.tex"),
        *("claims.csv", "README.md"),
    }
    assert (out / "to_chance.png").read_bytes().startswith(b"\x89PNG")
    text = capsys.readouterr().out
    assert "1 failed, half-finished or damaged" in text and "LoRA r1" in text
    assert "not found, left out: tuning trials" in text and "harvest" in text
    frame = runs_frame(records)
    bars = pd.read_csv(out / "off_target.csv")
    pd.testing.assert_frame_equal(bars, off_target.table(frame, summarise(frame)))
    assert (out / "table.md").read_text().startswith("# 8 runs")

    # without one-scalar runs, the figure of earlier ones must not stay
    write(tmp_path / "lora", records[4:5])
    monkeypatch.setattr(style, "save", lambda *_: None)  # drawing is slow, and seen above
    run(_figures(str(tmp_path / "lora"), str(out)))
    assert not list(out.glob("scalars.*")) and (out / "damage.svg").is_file()


def test_same_runs_give_the_same_files(frame: pd.DataFrame, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        drawing = scalars.draw(frame)
        assert drawing is not None
        style.save(drawing, tmp_path / name, "scalars")
    for kind in ("png", "svg", "csv"):
        first, second = (tmp_path / name / f"scalars.{kind}" for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()


def test_a_table_of_runs_draws_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "save", lambda *_: None)  # drawing is slow, and seen above
    write(tmp_path / "runs", synthetic.records(("one_scalar", "lora_r1"), (1, 4), 2))
    first = run(_figures(str(tmp_path / "runs"), str(tmp_path / "a")))
    second = run(_figures(str(first / "runs.csv"), str(tmp_path / "b")))
    for name in ("runs.csv", "summary.csv", "README.md", "headline.tex", "claims.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_damaged_record_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "save", lambda *_: None)
    runs = tmp_path / "runs"
    write(runs, synthetic.records(("one_scalar",), (1, 4), 2))
    (runs / "001" / "result.json").write_text('{"status": "finished", "conf')
    text = (runs / "002" / "result.json").read_text()
    (runs / "002" / "result.json").write_text(text.replace('"to_chance_nats"', '"to_nowhere"'))
    out = run(_figures(str(runs), str(tmp_path / "out")))
    assert len(pd.read_csv(out / "runs.csv")) == 2
    shown = capsys.readouterr().out
    for name in ("001", "002"):
        assert f"left out: '{runs / name / 'result.json'}'" in shown
    for path in runs.glob("*/result.json"):
        path.write_text("[]")
    with pytest.raises(UserError, match=r"no finished runs .*4 failed, half-finished or damaged"):
        run(_figures(str(runs), str(tmp_path / "none")))


def test_no_finished_runs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"no finished runs .*experiment=write_up paths.runs="):
        run(_figures(str(tmp_path / "absent"), str(out)))
    write(tmp_path / "runs", [synthetic.record(status="failed")])
    with pytest.raises(UserError, match="1 failed, half-finished or damaged"):
        run(_figures(str(tmp_path / "runs"), str(out)))
    mixed = [synthetic.record(), synthetic.record(seed=1, target_language="fr")]
    write(tmp_path / "mixed", mixed)
    with pytest.raises(UserError, match=r"languages.target.*runs=\.\.\."):
        run(_figures(str(tmp_path / "mixed"), str(out)))
    assert not out.exists()
