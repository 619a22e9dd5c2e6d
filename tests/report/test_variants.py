"""Runs with one word changed: held against the main ones, never mixed with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pd_finetune.errors import UserError
from pd_finetune.figures import FiguresConfig, run
from pd_finetune.records.record import Hashes, RunRecord
from pd_finetune.report.headline import interval
from pd_finetune.report.variants import decompositions, protecting_more, target_languages
from pd_finetune.results.intervals import estimate
from pd_finetune.results.summary import runs_frame
from pd_finetune.results.variants import check_distinct, variant
from tests.plots import synthetic
from tests.plots.test_figures import write

BUDGETS, SEEDS = (4, 64), 3
ALL = ["en", "fr", "es", "it"]


def changed(arm: str, budget: int, seed: int, **fields: Any) -> RunRecord:
    """A run of the variant: half of the main run's damage everywhere but in German."""
    main = synthetic.record(arm, budget, seed)
    half = {name: value if name == "de" else value / 2 for name, value in main.damage_nats.items()}
    return synthetic.record(arm, budget, seed, damage_nats=half, **fields)


CONFIG = synthetic.record("one_scalar", 4, 0).config
OTHER_RATE = CONFIG | {"method": {"name": "mask", "lr": 0.1, "kl_weight": 3.0}}
OTHER_TEXT = CONFIG | {"evaluation": {"split": "test", "rows": 8, "window": 128}}


OTHER = Hashes("a" * 64, "c" * 64, synthetic.record("one_scalar", 4, 0).hashes.text)


def grid(**fields: Any) -> list[RunRecord]:
    return [
        changed(arm, budget, seed, **fields)
        for arm in synthetic.ARMS
        for budget in BUDGETS
        for seed in range(SEEDS)
    ]


@pytest.fixture(scope="module")
def main() -> pd.DataFrame:
    return runs_frame(synthetic.records())


def test_more_protection_is_compared_run_by_run(main: pd.DataFrame) -> None:
    found = variant(runs_frame(grid(protected_languages=ALL)), main)
    assert found.name == "de-protecting-en-es-fr-it" and found.same_target
    assert set(found.main["budget"]) == set(BUDGETS) and set(found.main["seed"]) == set(range(3))
    text = protecting_more([found])
    for arm, label in (("one_scalar", "one scalar"), ("lora_r1", "LoRA r1")):
        halves, others = [], []
        for seed in range(SEEDS):
            damage = synthetic.record(arm, 64, seed).damage_nats
            halves.append(-damage["en"] / 2)
            others.append(-np.mean([damage[name] for name in ("fr", "es", "it")]) / 2)
        cells = []
        for values in (np.zeros(SEEDS), np.array(halves), np.array(others)):
            held = estimate(values)
            cells.append(interval(held.value, held.low, held.high))
        assert f"| {label} | 64 | {' | '.join(cells)} |" in text
    kept = [
        np.mean([synthetic.record(arm, 64, seed).damage_nats[name] / 2 for name in ALL])
        for arm in ("one_scalar", "lora_r1")
        for seed in range(SEEDS)
    ]
    held = estimate(np.array(kept[:SEEDS]) - np.array(kept[SEEDS:]))
    assert f"LoRA r1 at 64: {interval(held.value, held.low, held.high)}" in text


def test_one_table_of_targets_with_the_main_one_first(main: pd.DataFrame) -> None:
    frames = [runs_frame(grid(target_language=name)) for name in ("fr", "it")]
    found = [variant(frame, main) for frame in frames]
    assert [v.name for v in found] == ["fr-protecting-en", "it-protecting-en"]
    assert not any(v.same_target for v in found)
    text = target_languages(found)
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert [row[0].strip("| ") for row in rows] == sum(
        ([name] * 5 for name in ("German", "French", "Italian")), []
    )
    assert rows[0][3] == "h.3.attn.v_proj:5" and rows[1][3] == ""
    scalar = rows[5]
    assert scalar[1:6] == ["en", "one scalar", "h.3.attn.v_proj:5", "64 [4, 64]", "64"]
    english = [synthetic.record("one_scalar", 64, n).damage_nats["en"] / 2 for n in range(SEEDS)]
    held = estimate(np.array(english))
    assert scalar[7] == interval(held.value, held.low, held.high)


def test_one_table_of_decompositions_with_the_main_one_first(main: pd.DataFrame) -> None:
    records = grid(hashes=OTHER)
    for record in records:
        record.config["decomposition"] = {"folder": "somewhere/seed1"}
    frame = runs_frame(records)
    found = variant(frame, main)
    assert found.name == "de-protecting-en-seed1"
    assert found.same_target and not found.same_decomposition
    text = decompositions([found])
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert rows[0][0] == "| decomposition"
    names = [row[0].strip("| ") for row in rows[2:]]
    assert len(set(names[:5])) == 1 and names[5:] == ["seed1"] * 5
    english = [synthetic.record("one_scalar", 64, n).damage_nats["en"] / 2 for n in range(SEEDS)]
    held = estimate(np.array(english))
    assert interval(held.value, held.low, held.high) in rows[7]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "that is no variant of them"),
        ({"target_language": "fr", "hashes": OTHER}, "decomposition_hash .* only one of them"),
        ({"target_language": "fr", "chance_nats": 9.0}, "chance_nats is 9.0"),
        ({"target_language": "fr", "seed": 77}, "no arm, budget and seed"),
        ({"target_language": "fr", "config": OTHER_RATE}, "has lr 0.1, in the runs it has 0.3"),
        ({"target_language": "fr", "config": OTHER_TEXT}, "text_hash is"),
    ],
)
def test_what_is_no_variant_is_refused(
    main: pd.DataFrame, fields: dict[str, Any], message: str
) -> None:
    frame = runs_frame([synthetic.record("one_scalar", 4, **({"seed": 0} | fields))])
    with pytest.raises(UserError, match=message):
        variant(frame, main)


def test_one_variant_given_twice(main: pd.DataFrame) -> None:
    one = variant(runs_frame(grid(target_language="fr")), main)
    with pytest.raises(UserError, match="fr-protecting-en is given more than once"):
        check_distinct([one, one])


def test_the_stage_keeps_them_beside_the_page(tmp_path: Path) -> None:
    arms = ("one_scalar", "lora_r1")
    write(tmp_path / "runs", synthetic.records(arms, BUDGETS, SEEDS))
    mine = [changed(arm, 4, seed, target_language="fr") for arm in arms for seed in range(SEEDS)]
    write(tmp_path / "fr", mine)
    out = tmp_path / "out"
    run(FiguresConfig(str(tmp_path / "runs"), str(out), variants=[str(tmp_path / "fr")]))
    page = (out / "README.md").read_text()
    assert "| French | en | one scalar |" in page and "Not run: `languages.preserve" in page
    # the next call finds the table where this one left it
    assert (out / "variants" / "fr-protecting-en.csv").is_file()
    run(FiguresConfig(str(out / "runs.csv"), str(out)))
    assert (out / "README.md").read_text() == page
    # and one that is not given any more does not come back
    run(FiguresConfig(str(out / "runs.csv"), str(out), variants=[]))
    assert not list((out / "variants").glob("*.csv"))
    with pytest.raises(UserError, match="absent': there is no such folder or table"):
        run(FiguresConfig(str(out / "runs.csv"), str(out), variants=[str(tmp_path / "absent")]))
    bad = tmp_path / "bad.csv"
    bad.write_text("arm,budget\n")
    with pytest.raises(UserError, match="bad.csv': .* is no table of runs"):
        run(FiguresConfig(str(out / "runs.csv"), str(out), variants=[str(bad)]))


def test_text_without_code_or_english(main: pd.DataFrame) -> None:
    """As of `languages=local`: columns are those there are."""

    def without(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.drop(columns=["damage_code_nats", "damage_en_nats"]).assign(
            protected_languages="fr"
        )

    italian = variant(without(runs_frame(grid(target_language="it"))), without(main))
    assert "| Italian | fr | one scalar |" in target_languages([italian])
    spared = without(runs_frame(grid())).assign(protected_languages="fr es")
    assert "| damage fr | damage es, it |" in protecting_more([variant(spared, without(main))])
