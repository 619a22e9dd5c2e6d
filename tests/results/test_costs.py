"""Costs come from records and formulas; break-even is a division, or never."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pd_finetune.errors import UserError
from pd_finetune.files import file_sha256
from pd_finetune.records.record import RunRecord, Seconds
from pd_finetune.report.tables import break_even_table
from pd_finetune.results import published_costs
from pd_finetune.results.break_even import break_even, edits_to_break_even, equal_budget
from pd_finetune.results.costs import HERE, Sizes, costs, folders_of, sizes_of
from pd_finetune.results.frame import runs_frame
from pd_finetune.results.tuning import cells, read_trials, score, used_settings
from tests.plots import synthetic
from tests.results.test_claims import run

NO_TRIALS = pd.DataFrame({"arm": [], "budget": []})
ROOT = Path(__file__).parent.parent.parent
EMBEDDED = ROOT / "pd_finetune" / "embedded"
TUNING = ROOT / "results" / "embedded" / "tuning"


def test_sizes_are_those_of_the_weights() -> None:
    import torch
    from safetensors.torch import load_file

    size = sizes_of(EMBEDDED / "target", EMBEDDED / "decomposition")
    target = load_file(EMBEDDED / "target" / "model.safetensors")
    assert size.target == sum(w.numel() for w in target.values() if w.ndim == 2)
    parts = load_file(EMBEDDED / "decomposition" / "decomposition.safetensors")
    own = [v for k, v in parts.items() if k.startswith("U.") or k.startswith("V.")]
    assert size.components == sum(torch.numel(v) for v in own)


def test_flops_count_matmuls() -> None:
    """Against torch's own counter, on one linear layer: forward 2, inputs' gradient 2, all 6."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def counted(frozen: bool) -> int:
        layer = torch.nn.Linear(8, 16, bias=False).requires_grad_(not frozen)
        x = torch.randn(10, 8, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            layer(x).sum().backward()
        return counter.get_total_flops()

    size = Sizes(target=8 * 16, components=0, ci_function=0)
    assert size.pretraining() * 10 == counted(frozen=False)
    assert size.editing() * 10 == counted(frozen=True)
    whole = Sizes(target=1, components=10, ci_function=100)
    assert whole.decomposing() == 2 + 600 + 60 + 4
    assert whole.decomposing(2, 2) == 2 + 600 + 2 * 64 + 2 * 44


def embedded_run(budget: int, seed: int, arm: str = "one_scalar") -> RunRecord:
    made = synthetic.record(arm, budget, seed)
    made.config["decomposition"] = {"folder": "embedded"}
    made.config["objective"] = {"protect_rows": 8, "protect_tokens": 64}
    made.steps, made.seconds = 60, Seconds(train=5.0 + budget)
    made.hashes.decomposition = file_sha256(EMBEDDED / "decomposition/decomposition.safetensors")
    return made


def test_what_is_spent_once_is_read_from_the_records() -> None:
    frame = runs_frame([embedded_run(4, seed) for seed in range(2)])
    folders = folders_of(frame)
    assert folders == (EMBEDDED / "target", EMBEDDED / "decomposition")
    assert folders_of(frame.assign(decomposition_hash="c" * 64)) is None
    table = costs(frame, NO_TRIALS, *folders).set_index("stage")
    record = json.loads((EMBEDDED / "decomposition" / "decomposition.json").read_text())
    row = table.loc["decomposition"]
    assert row["tokens"] == record["training_tokens"] and row["seconds"] == record["seconds"]
    assert row["target_tokens"] == record["training_tokens"] * record["config"]["mixture"]["de"]
    assert row["flops"] == sizes_of(*folders).decomposing() * row["tokens"]
    harvest = json.loads((EMBEDDED / "decomposition" / "harvest" / "harvest.json").read_text())
    assert table.loc["harvest, labels", "target_tokens"] == harvest["tokens_per_language"]["de"]


def test_edits_and_tuning() -> None:
    frame = runs_frame([embedded_run(budget, seed) for budget in (4, 64) for seed in range(3)])
    trials = pd.DataFrame({"arm": "one_scalar", "budget": [4, 4, 64, 200]})
    folders = folders_of(frame)
    assert folders is not None
    found = costs(frame, trials, *folders)
    table = found[found["stage"] == "edit"].set_index("budget")
    assert set(table["arm"]) == {"one_scalar"} and set(found["model"]) == {HERE}
    assert table.loc[4, "tokens"] == 60 * (4 + 8 * 64) and table.loc[4, "seconds"] == 9.0
    assert table.loc[64, "flops"] == sizes_of(*folders).editing() * 60 * (64 + 8 * 64)
    tuning = found[found["stage"] == "tuning"].iloc[0]
    assert tuning["seconds"] == 9.0 + 9.0 + 69.0 + 69.0 and tuning["note"].startswith("4 trials")


def test_a_damaged_record_is_a_users_mistake(tmp_path: Path) -> None:
    for name in ("target", "decomposition"):
        (tmp_path / name).mkdir()
    (tmp_path / "target" / "model.safetensors").write_bytes(b"xx")
    frame = runs_frame([embedded_run(4, 0)])
    with pytest.raises(UserError, match="cannot tell the costs"):
        costs(frame, NO_TRIALS, tmp_path / "target", tmp_path / "decomposition")


# ------------------------------------------------------------------ break-even


def test_break_even_is_the_quotient_or_never() -> None:
    assert edits_to_break_even(100.0, 1.0, 11.0) == 10
    assert edits_to_break_even(101.0, 1.0, 11.0) == 11
    assert edits_to_break_even(100.0, 11.0, 11.0) == math.inf
    assert edits_to_break_even(100.0, 12.0, 11.0) == math.inf


def frame_of_both() -> pd.DataFrame:
    runs = []
    for seed in range(3):
        for budget, gap, english, french in (
            (4, 3.0, 0.0, 0.0),
            (16, 0.0, 0.2, 0.0),
            (64, 0, 0, 2),
        ):
            runs.append(run("lora_r1", budget, seed, gap, en=english, fr=french))
            runs.append(run("one_scalar", budget, seed, 0.0, en=0.05, fr=0.05))
    return runs_frame(runs)


def test_equal_damage_asks_for_both() -> None:
    frame = frame_of_both()
    assert equal_budget(frame, "one_scalar", 4, "lora_r1", off_target=False) == 64
    assert equal_budget(frame, "one_scalar", 4, "lora_r1", off_target=True) is None


def test_break_even_table() -> None:
    frame = frame_of_both()
    once = [
        (HERE, stage, "", pd.NA, "once per model", tokens, flops, seconds)
        for stage, tokens, flops, seconds in (
            ("target", 9e9, 9e9, 9e9),
            ("decomposition", 500.0, 50.0, 5.0),
            ("harvest", 100.0, 10.0, np.nan),
        )
    ]
    spent = [
        (HERE, "edit", arm, b, "per edit", float(b), 10.0 + (b if arm == "lora_r1" else 0), 7.0)
        for arm in ("one_scalar", "lora_r1")
        for b in (4, 16, 64)
    ]
    columns = ["model", "stage", "arm", "budget", "counted", "target_tokens", "flops", "seconds"]
    paid = pd.DataFrame(once + spent, columns=columns)
    table = break_even(frame, paid)
    assert set(table["arm"]) == {"one_scalar"} and set(table["rival"]) == {"lora_r1"}
    own = table[~table["off_target"]].set_index("currency")
    assert own.loc["target_tokens", "edits"] == 10  # 600 / (64 - 4)
    assert own.loc["flops", "edits"] == math.ceil(60 / 64)
    assert own.loc["seconds", "edits"] == math.inf
    both = table[table["off_target"]]
    assert both["rival_budget"].isna().all() and both["edits"].isna().all()
    # runs that all scale, or that all do not, have nothing to break even with
    for arm in ("one_scalar", "lora_r1"):
        alone = break_even(frame[frame["arm"] == arm], paid)
        assert alone.empty and list(alone.columns) == list(table.columns)
    shown = break_even_table(table)
    assert shown["arm"].tolist() == ["one scalar, 4"] * 2
    assert shown["by tokens"].tolist() == ["10", "not comparable"]


def test_published_figures() -> None:
    size = published_costs.sizes()
    # 67M parameters; tensor shapes as public
    assert size.target == 50_277 * 768 + 4 * (4 * 768 * 768 + 2 * 768 * 3072)
    assert size.target == pytest.approx(67e6, rel=0.01)
    assert sum(count for count, _ in published_costs.SITES) * 4 == 38_912
    found = published_costs.break_even(published_costs.costs(60, 512))
    assert found["rival_edit"] - found["edit"] == pytest.approx(4 * size.target * 60 * 28)
    assert found["edits"] == math.ceil(found["fixed"] / (4 * size.target * 60 * 28))


# ------------------------------------------------------------------ tuning trials


def test_trials_are_scored_by_the_rule_that_chose_them() -> None:
    gap, damage = pd.Series([0.5, -3.0, 0.0]), pd.Series([0.05, 0.30, 0.10])
    assert score(gap, damage).tolist() == pytest.approx([0.5, 2.0, 0.0])
    trials = read_trials(TUNING)
    assert score(0.5, 0.05) == 0.5 and score(-3.0, 0.30) == pytest.approx(2.0)
    assert set(trials["arm"]) >= {"one_scalar", "lora_r1"}
    table = cells(trials)
    assert table["trials"].sum() == len(trials)
    frame = runs_frame([synthetic.record(budget=4)])
    assert used_settings(frame, "one_scalar", 64) == {"lr": 0.3, "kl_weight": 3.0}
    assert used_settings(frame, "lora_r1", 64) == {}


def test_other_tables_are_no_trials(tmp_path: Path) -> None:
    assert read_trials(tmp_path).empty
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="holds no tuning trials"):
        read_trials(tmp_path)
