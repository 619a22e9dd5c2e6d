"""The scripts that compare decompositions, over tiny decompositions, through their real mains."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from pd_finetune.decomposition.trainer import Trainer
from pd_finetune.errors import UserError
from pd_finetune.loading.decomposition import load_decomposition
from pd_finetune.loading.target import load_target
from pd_finetune.plots import doses as picture_of_doses
from pd_finetune.results.costs import sizes_of
from pd_finetune.selection.rank import select_top
from pd_finetune.selection.store import Harvest, load_harvest
from tests.decomposition import parts

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import decomposed as decomposed_script
import doses as doses_script
import equal_quality as equal_script
import front as front_script
import slim_decomposition as slim_script
import stability as stability_script
import training_curves as curves_script

COEFFICIENTS = ["1e-4", "1e-3"]


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What makes a decomposition tiny, with a start of its own."""
    root = tmp_path_factory.mktemp("front")
    parts.text_folder(root / "text")
    made = parts.overrides(parts.model_folder(root / "target"), root / "text")
    start = f"out={root / 'start'}"
    parts.run_stage("decompose", [*made, start, "recipe.steps=2"])
    return [*made, f"start_from={root / 'start'}", "log_steps=1", "recipe.steps=10"]


def call(
    script: Any, monkeypatch: pytest.MonkeyPatch, *given: str | Path
) -> tuple[int | str | None, str]:
    """Exit code of a script's main."""
    monkeypatch.setattr(sys, "argv", ["script.py", *map(str, given)])
    try:
        script.main()
    except SystemExit as exit_:
        return exit_.code, ""
    return 0, ""


def test_a_front_is_trained_measured_and_written_once(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    options = ["--work", work, "--out", out, "--coefficients", *COEFFICIENTS]
    assert call(front_script, monkeypatch, *options, *words)[0] == 0
    points = pd.read_csv(out / "front.csv")
    assert list(points["coefficient"]) == [1e-4, 1e-3]
    assert points["frequency"].to_numpy() == pytest.approx(points["coefficient"].to_numpy() / 3)
    assert set(points["steps"]) == {10}
    numbers = points[[c for c in points if c.startswith(("kl", "ci_l0", "alive"))]]
    assert numbers.notna().all(axis=None) and (numbers >= -1e-6).all(axis=None)
    for coefficient in COEFFICIENTS:
        folder = work / f"m{float(coefficient):g}"
        record = json.loads((folder / "decomposition.json").read_text())
        assert record["config"]["recipe"]["minimality_coefficient"] == float(coefficient)
        assert record["config"]["start_from"] in words[-3]
        start = Path(record["config"]["start_from"]) / "decomposition.json"
        assert record["start_hash"] == json.loads(start.read_text())["weights_sha256"]
        quality = json.loads((folder / "quality" / "quality.json").read_text())
        row = points[points["coefficient"] == float(coefficient)].iloc[0]
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
        assert call(front_script, patch, *options, *words)[0] == 0
    assert (out / "front.csv").read_bytes() == before
    # another start of the same name is another decomposition
    record = json.loads((work / "m0.001" / "decomposition.json").read_text())
    assert not decomposed_script._same(
        record | {"start_hash": "another"},
        decomposed_script.composed("decompose", [*words, "experiment=front", "out=x"]),
        [],
    )


def test_what_fails_is_named_and_no_front_is_written(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    options = ["--work", tmp_path / "work", "--out", out, "--coefficients", "1e-3"]
    wrong = [word for word in words if not word.startswith("ci_function")]
    assert call(front_script, monkeypatch, *options, *wrong)[0] == 1
    error = capsys.readouterr().err
    assert "error: minimality 0.001: start_from has a causal-importance function" in error
    assert "the front is not written" in error
    assert not (out / "front.md").exists()


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (["recipe.stpes=3"], 1, "stpes"),
        (["recipe.steps=abc"], 1, "abc"),
        (["out=here"], 2, "out=here: this script sets it"),
        (["--only", "3e-4"], 2, "--only 0.0003: --coefficients are [0.0001, 0.001]"),
        (["--out", "/proc/nope"], 2, "/proc/nope"),
    ],
)
def test_mistakes_take_one_line(
    given: list[str],
    code: int,
    message: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--work", tmp_path / "w", "--out", tmp_path / "o", "--coefficients", *COEFFICIENTS]
    assert call(front_script, monkeypatch, *options, *words, *given)[0] == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def points(stochastic: list[float], l0: list[float]) -> pd.DataFrame:
    coefficients = [10.0**-i for i in range(len(l0))]
    columns = {"coefficient": coefficients, "ci_l0": l0, "kl_stochastic": stochastic}
    return pd.DataFrame(columns).assign(kl_zero=10.0)


def test_the_rule_takes_the_sparsest_that_is_good_enough() -> None:
    assert front_script.choose(points([0.3, 0.2, 0.1], [5.0, 20.0, 30.0])) == pytest.approx(0.1)
    assert front_script.choose(points([0.3, 0.2, 0.1], [5.0, 40.0, 30.0])) == pytest.approx(0.01)
    assert front_script.choose(points([0.3, 0.21], [5.0, 20.0])) is None


def test_change_compares_the_halves_of_the_last_fifth() -> None:
    curve = pd.DataFrame({"step": range(1, 11), "ci_l0": [9.0] * 8 + [4.0, 5.0]})
    assert front_script.change(curve, "ci_l0") == pytest.approx(0.25)
    assert math.isnan(front_script.change(curve[:1], "ci_l0"))
    assert math.isnan(front_script.change(curve, "adversarial_kl_nats"))


def test_trainings_are_put_side_by_side_from_their_records(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for seed in (1, 2):
        own = [f"seed={seed}", f"out={tmp_path / f'seed{seed}'}"]
        parts.run_stage("decompose", [*words, *own])
    options = [tmp_path / "seed1", tmp_path / "seed2", "--out", tmp_path / "out"]
    assert call(curves_script, monkeypatch, *options)[0] == 0
    record = json.loads((tmp_path / "seed2" / "decomposition.json").read_text())
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
    (tmp_path / "seed2" / "decomposition.json").write_text(json.dumps(record))
    assert call(curves_script, monkeypatch, *options)[0] == 2
    assert "has no history" in capsys.readouterr().err
    options[1] = tmp_path / "nowhere"
    assert call(curves_script, monkeypatch, *options)[0] == 2
    assert "nowhere" in capsys.readouterr().err


def harvested(words: list[str], shared: list[str]) -> Path:
    """The start of `words`, with a harvest beside it."""
    start = Path(next(w for w in words if w.startswith("start_from=")).split("=", 1)[1])
    if not (start / "harvest").is_dir():
        given = ["decomposition=folder", f"decomposition.folder={start}", "rows_per_language=4"]
        parts.run_stage("harvest", [*shared, *given])
    return start


def test_a_decomposition_is_stable_against_itself(
    words: list[str],
    shared: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = harvested(words, shared)
    shutil.copytree(start, tmp_path / "copy")
    options = [start, tmp_path / "copy", "--out", tmp_path / "out", "--rows", "4"]
    assert call(stability_script, monkeypatch, *options, *shared)[0] == 0
    found = pd.read_csv(tmp_path / "out" / "stability_1.csv")
    assert (found["match"] == found["index"]).all() and found["mutual"].all()
    assert found["cosine"].to_numpy() == pytest.approx(1.0, abs=1e-5)
    assert set(found["pair"]) == {f"{Path(start).name}, copy"}
    page = (tmp_path / "out" / "stability.md").read_text()
    assert f"| all | {len(found)} | 1.00 |" in page and page in capsys.readouterr().out
    assert call(stability_script, monkeypatch, *options, *shared, "--language", "xx")[0] == 2
    assert "--language xx: possible are de, en" in capsys.readouterr().err
    # two steps of training lead nowhere
    assert (found["start_cosine"] > 0.9).all() and (found["start_cosine"] < 1 - 1e-9).any()
    varying = found[found["best_correlation"] > 0]
    assert len(varying) and varying["correlation"].to_numpy() == pytest.approx(1.0, abs=1e-5)
    # of what ships of other seeds there are no correlations, and a cosine in 16 bits
    slim = [start, "--out", tmp_path / "slim"]
    assert call(slim_script, monkeypatch, *slim)[0] == 0
    options = [start, tmp_path / "slim", "--out", tmp_path / "again", "--rows", "4"]
    assert call(stability_script, monkeypatch, *options, *shared)[0] == 0
    again = pd.read_csv(tmp_path / "again" / "stability_1.csv")
    assert list(again["match"]) == list(found["match"])
    assert again["cosine"].to_numpy() == pytest.approx(1.0, abs=1e-4)
    assert again["correlation"].isna().all()
    page = (tmp_path / "again" / "stability.md").read_text()
    assert "| – | – | – |" in page
    # harvests of other text, or none
    shutil.copytree(start, tmp_path / "other")
    path = tmp_path / "other" / "harvest" / "harvest.json"
    config = json.loads(path.read_text())
    config["hashes"]["text"]["de"] = "another"
    path.write_text(json.dumps(config))
    options[1] = tmp_path / "other"
    assert call(stability_script, monkeypatch, *options, *shared)[0] == 2
    assert "are of other languages or text" in capsys.readouterr().err
    path.unlink()
    assert call(stability_script, monkeypatch, *options, *shared)[0] == 2
    assert "no harvest in" in capsys.readouterr().err


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
    found = stability_script.Found("x", None, Harvest(table, table, table, {}))  # type: ignore[arg-type]
    assert found.exclusive() == {("a", 1): "de", ("b", 0): "fr"}
    means = {site: values.tolist() for site, values in found.mean_ci().items()}
    assert means == {"a": [0.2, 0.1], "b": [0.3]}


@pytest.fixture
def shared(words: list[str]) -> list[str]:
    """Those of the words that every stage knows."""
    return [w for w in words if w.startswith(("model", "languages", "device", "threads"))]


@pytest.fixture
def slimmed(
    words: list[str], shared: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """A whole decomposition with its harvest, and its slim form."""
    start, out = harvested(words, shared), tmp_path / "slim"
    assert call(slim_script, monkeypatch, start, "--out", out)[0] == 0
    return start, out


def test_a_slim_decomposition_is_edited_and_no_more(
    words: list[str], shared: list[str], slimmed: tuple[Path, Path], tmp_path: Path
) -> None:
    start, out = slimmed
    target = load_target(shared[1].split("=", 1)[1], torch.device("cpu"))
    whole, slim = (load_decomposition(str(folder), target) for folder in (start, out))
    assert slim.hash != whole.hash == slim.record["whole_sha256"]
    assert slim.all_keys() == whole.all_keys()
    before = load_harvest(start / "harvest", target, whole)
    after = load_harvest(out / "harvest", target, slim)
    for name in ("subcomponents", "tokens", "examples"):
        pd.testing.assert_frame_equal(getattr(after, name), getattr(before, name))
    # the same edit of the same subcomponents
    ids, logits = torch.arange(12)[None] * 7 % 300, []
    for decomposition, harvest in ((whole, before), (slim, after)):
        chosen = select_top(harvest, decomposition, "de", 0, count=3, contrast="en")
        method = MaskMethod(target, decomposition, chosen.keys, start=-3.0)
        with method.edited(), torch.no_grad():
            logits.append(target.model(input_ids=ids).logits)
    clean = target.model(input_ids=ids).logits
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=2e-3)
    assert (logits[0] - clean).abs().max() > 0.05
    # costs count what is left out
    folder = Path(shared[1].split("=", 1)[1])
    assert sizes_of(folder, out) == sizes_of(folder, start)
    given = ["decomposition=folder", f"decomposition.folder={out}"]
    refused = "stored without its causal-importance function"
    for stage in ("harvest", "quality"):
        with pytest.raises(UserError, match=refused):
            parts.run_stage(stage, [*shared, *given, f"out={tmp_path / stage}"])
    with pytest.raises(UserError, match=refused):
        parts.run_stage("decompose", [*words[:-3], f"start_from={out}", f"out={tmp_path / 'd'}"])


def test_what_cannot_be_slimmed_is_said(
    slimmed: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start, slim = slimmed
    broken = tmp_path / "broken"
    shutil.copytree(start, broken)
    (broken / "harvest" / "tokens.parquet").write_bytes(b"")
    capsys.readouterr()
    for folder, out, message in (
        (start, start, "that is not slim is there"),
        (slim, tmp_path / "twice", "is slim already"),
        (broken, tmp_path / "b", "is damaged (tokens.parquet)"),
        (tmp_path / "nothing", tmp_path / "n", "no decomposition with a harvest"),
    ):
        assert call(slim_script, monkeypatch, folder, "--out", out)[0] == 2
        assert message in capsys.readouterr().err
        assert out == start or not out.exists()
    (broken / "decomposition.safetensors").write_bytes(b"")
    assert call(slim_script, monkeypatch, broken, "--out", tmp_path / "b")[0] == 2
    assert "is not what its record says" in capsys.readouterr().err


def test_nothing_trained_yet_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="start_from"):
        parts.run_stage("decompose", [f"start_from={tmp_path}", f"out={tmp_path / 'o'}"])
    with pytest.raises(UserError, match="is the folder that the new one goes to"):
        parts.run_stage("decompose", [f"start_from={tmp_path}", f"out={tmp_path}"])


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
    own = [word for word in words if not word.startswith(("start_from", "recipe"))]
    options = ["--work", tmp_path / "work", "--out", tmp_path / "out", "--speed", speed]
    options += ["--steps", "6", "--shares", "2", "--lrs", "1e-3", "3e-3"]
    options += ["--rivals", "1e-3:2e-4", "3e-3:1e-3"]
    options += ["--coefficients", *COEFFICIENTS, "recipe.rows=4", "recipe.window=10", *own]
    assert call(equal_script, monkeypatch, *options, "--only", "paper-lr0.001-m0.0002-6")[0] == 0
    assert not (tmp_path / "out").exists()
    assert call(equal_script, monkeypatch, *options)[0] == 0
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
        assert call(equal_script, patch, *options)[0] == 0


def test_kl_at_equal_sparsity_lies_on_the_straight_line_of_logarithms() -> None:
    curve = pd.DataFrame({"ci_l0": [400.0, 100.0], "kl_x": [0.1, 0.4]})
    assert equal_script.at_equal_l0(curve, 200.0, "kl_x") == pytest.approx(0.2)
    assert equal_script.at_equal_l0(curve, 100.0, "kl_x") == pytest.approx(0.4)
    assert math.isnan(equal_script.at_equal_l0(curve, 401.0, "kl_x"))
    assert math.isnan(equal_script.at_equal_l0(curve, 99.0, "kl_x"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--speed", "nowhere.json"],
            "--speed nowhere.json has no times of reference and merged",
        ),
        (["--rival", "paper"], "has no times of paper and merged"),
        (["--only", "x"], "--only x: there are paper-lr0.001-m0.0002-6, "),
        (["--rivals", "1e-3"], "--rivals 1e-3: give lr:minimality, as 1e-3:2e-4"),
        (["recipe.lr=1"], "recipe.lr=1: this script sets it"),
        (["start_from=embedded"], "start_from=embedded: this script sets it, or it has no place"),
    ],
)
def test_a_wrong_comparison_is_refused(
    given: list[str],
    message: str,
    speed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(equal_script, monkeypatch, "--speed", speed, "--steps", "6", *given)[0] == 2
    assert message in capsys.readouterr().err


def test_one_scale_is_priced_in_every_basis(
    words: list[str],
    shared: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = harvested(words, shared)
    more = ["--count", "4", *shared, "evaluation.rows=4", "evaluation.window=16"]
    options = [start, "--out", tmp_path / "out", *more]
    assert call(doses_script, monkeypatch, *options)[0] == 2
    message = capsys.readouterr().err  # a random model is
    assert "'de' is at chance as it is" in message
    clean = float(message.split("(")[1].split(" nats")[0])
    target = load_target(shared[1].split("=", 1)[1], torch.device("cpu"))
    gap = target.chance_nats - clean - 0.015
    monkeypatch.setattr(doses_script, "AT_CHANCE_NATS", gap)
    assert call(doses_script, monkeypatch, *options)[0] == 0
    prices = pd.read_csv(tmp_path / "out" / "doses.csv")
    for group in (f"{start.name}, any", "singular directions"):
        assert len(prices[prices["group"] == group]) == 4
    assert prices["damage_nats"].notna().any() and prices["damage_nats"].isna().any()
    page = (tmp_path / "out" / "doses.md").read_text()
    assert f"| {start.name}, German alone | " in page and "| singular directions | 4 | " in page
    for given, error in (
        ([tmp_path / "none"], "none"),
        ([start, "decomposition=x"], "decomposition=x: not read here"),
        ([start, start], "two decompositions of one name among start, start"),
    ):
        assert call(doses_script, monkeypatch, *given, "--out", tmp_path / "o", *more)[0] == 2
        assert error in capsys.readouterr().err
    assert call(doses_script, monkeypatch, start, "--count", "0")[0] == 2


def test_the_page_of_prices_counts_and_places() -> None:
    columns = doses_script.COLUMNS
    rows = [
        ("a", "h.0.attn.q_proj:1", -9.0, 0.3, False),
        ("a", "h.0.attn.q_proj:2", -9.5, 0.2, True),
        ("a", "h.0.attn.q_proj:3", 12.0, 0.05, False),
        ("a", "h.0.attn.q_proj:4", math.nan, math.nan, False),
    ]
    frames = {
        "a": pd.DataFrame(rows, columns=columns),
        "none": pd.DataFrame([], columns=columns),
        "out of reach": pd.DataFrame([("x", "k:1", math.nan, math.nan, True)], columns=columns),
    }
    lines = doses_script.page(frames, "de", "en", "test").splitlines()
    found = {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| ")}
    chosen = "`h.0.attn.q_proj:2`: 0.20, place 2"
    assert found["a"] == f"| a | 4 | 3 | 1 | `h.0.attn.q_proj:3` | +12.0 | 0.05 | {chosen} |"
    assert found["none"] == "| none | 0 | 0 | 0 | – | – | – | – |"
    assert found["out of reach"].endswith("| `k:1`: not within these |")
    drawing = picture_of_doses.draw(frames, "de", "en")
    (axes,) = drawing.figure.axes
    drawn = [tuple(map(float, point)) for dots in axes.collections for point in dots.get_offsets()]
    assert sorted(round(x, 3) for x, _ in drawn) == [0.05, 0.2, 0.2, 0.3]  # the star twice
    assert {round(y) for _, y in drawn} == {0}
