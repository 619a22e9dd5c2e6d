"""`python -m pd_finetune.rollouts`: edited models speak, and the page reads what they said."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from pd_finetune import rollouts
from pd_finetune.edits.edit import SavedEdit
from pd_finetune.errors import UserError
from pd_finetune.evaluation.sampling import continuations
from pd_finetune.loading.target import load_target
from pd_finetune.records.record import RunRecord
from pd_finetune.report.tables import score_table
from pd_finetune.results.rollouts import Rollout, read_rollouts, scores, shares, write_rollouts
from pd_finetune.rollouts import RolloutsConfig
from pd_finetune.targets.changes import edited
from tests import composed
from tests.test_export import finished_run, world  # noqa: F401

PROMPTS = {"de": ["Der schnelle", "Die Bibliothek"], "en": ["The library"]}


@pytest.fixture
def runs(world: Path, tmp_path: Path) -> Path:  # noqa: F811
    """Of two arms, the one with two budgets: the later is at chance."""
    root = tmp_path / "runs"
    root.mkdir()
    config = {
        "model": {"folder": str(world / "target"), "dtype": "float32"},
        "decomposition": {"folder": str(world / "parts")},
        "selection": {"_target_": "pd_finetune.selection.rank.select_keys"},
    }
    common = {"config": config, "selection": ["h.1.mlp.c_fc:3", "h.0.attn.v_proj:0"]}
    for budget, gap in ((4, 2.0), (16, 0.0)):
        for seed in range(2):
            name = f"mask_{budget}_{seed}"
            fields = {**common, "budget": budget, "seed": seed, "to_chance_nats": gap}
            fields["arm"] = "two_scalars"
            finished_run(world, root / name, "mask", **fields)
    finished_run(world, root / "lora", "lora_r1", arm="lora_r1", **common)
    return root


def made(runs: Path, out: Path, **changes: int) -> pd.DataFrame:
    fields = {"tokens": 12, "samples": 2, "runs_per_arm": 1, "device": "cpu", **changes}
    stage = composed.stage("rollouts")
    config = replace(stage, runs=str(runs), out=str(out), prompts=PROMPTS, **fields)
    return read_rollouts(rollouts.run(config))


def test_edits_at_their_best_budget_are_continued(runs: Path, tmp_path: Path) -> None:
    found = made(runs, tmp_path / "out")
    assert set(found["arm"]) == {"unedited", "lora_r1", "two_scalars"}
    assert set(found[found["arm"] == "two_scalars"]["budget"]) == {16}
    assert len(found) == 3 * 3 * (1 + 2)  # arms, prompts, greedy and samples
    folder = runs / "mask_16_0"
    record = RunRecord.read(folder / "result.json")
    target = load_target(record.config["model"]["folder"])
    greedy = found[(found["mode"] == "greedy") & (found["prompt"] == "Der schnelle")]
    texts = greedy.set_index("arm")["continuation"]
    assert texts["unedited"] == continuations(target, {"de": "Der schnelle"}, 12)["de"]
    with edited(target.model, SavedEdit(folder, target)):
        assert texts["two_scalars"] == continuations(target, {"de": "Der schnelle"}, 12)["de"]
    assert texts["unedited"] != texts["two_scalars"]


def test_same_seed_same_file(runs: Path, tmp_path: Path) -> None:
    made(runs, tmp_path / "a")
    made(runs, tmp_path / "b")
    made(runs, tmp_path / "c", seed=1)
    a, b, c = ((tmp_path / name / "rollouts.jsonl").read_bytes() for name in "abc")
    assert a == b != c


def test_mistakes(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished runs"):
        made(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(UserError, match="prompts has 1: give two or more languages"):
        RolloutsConfig(prompts={"de": ["x"]})
    with pytest.raises(UserError, match="longer than the target's context"):
        made(runs, tmp_path / "out", tokens=500)
    (tmp_path / "x.jsonl").write_text('{"arm": "x"}\n')
    with pytest.raises(UserError, match="cannot read rollouts"):
        read_rollouts(tmp_path / "x.jsonl")


def lines(arm: str, seed: int | None, german: int) -> list[Rollout]:
    budget = None if seed is None else 4
    return [
        Rollout(arm, budget, seed, "greedy", 0, "de", f"p{n}", f"*t* {arm}", code, 0.1 * n)
        for n, code in enumerate(["de"] * german + ["it"] * (3 - german) + [None])
    ]


def test_scores_are_means_over_runs(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    write_rollouts(path, [*lines("unedited", None, 3), *lines("a", 0, 1), *lines("a", 1, 0)])
    found = read_rollouts(path)
    assert shares(found, "de")["as_prompt"].tolist() == [0.75, 0.25, 0.0]
    table = scores(found, "de").set_index("arm")
    assert table["as_prompt"].to_dict() == {"unedited": 0.75, "a": 0.125}
    assert table.loc["a", "runs"] == 2 and table.loc["a", "continuations"] == 8
    assert table.loc["a", "repetition"] == pytest.approx(0.15)
    shown = score_table(found, "de").iloc[1]
    assert shown[["arm", "budget", "mode", "runs", "de → de"]].tolist() == [
        *("a", "4", "greedy", "2", "0.12"),
    ]
    first = json.loads(path.read_text().splitlines()[0])
    assert first == asdict(lines("unedited", None, 3)[0])
