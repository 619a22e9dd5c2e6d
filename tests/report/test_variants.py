"""Runs with one word changed: held against the main ones, never mixed with them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pd_finetune.errors import UserError
from pd_finetune.figures import run
from pd_finetune.plots import style
from pd_finetune.records.record import Hashes, RunRecord
from pd_finetune.report.config import FiguresConfig
from pd_finetune.report.tables import changes_table, variants_tables
from pd_finetune.results.frame import runs_frame
from pd_finetune.results.summary import estimate
from pd_finetune.results.variants import Variant, check_distinct, variant
from pd_finetune.tables import interval, markdown
from tests import composed
from tests.plots import synthetic
from tests.plots.test_figures import write

BUDGETS, SEEDS = (4, 64), 3
ALL = ["en", "fr", "es", "it"]


def _figures(runs: str, out: str, **values: Any) -> FiguresConfig:
    return replace(composed.stage("figures"), runs=runs, out=out, **values)


def changed(arm: str, budget: int, seed: int, **fields: Any) -> RunRecord:
    """A run of the variant: half of the main run's damage everywhere but in German."""
    main = synthetic.record(arm, budget, seed)
    half = {name: value if name == "de" else value / 2 for name, value in main.damage_nats.items()}
    return synthetic.record(arm, budget, seed, damage_nats=half, **fields)


CONFIG = synthetic.record("one_scalar", 4, 0).config
OTHER_RATE = CONFIG | {"method": {"lr": 0.1, "kl_weight": 3.0}}
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


def changes(found: Variant) -> str:
    return markdown(changes_table(found))


def rows_of(main: pd.DataFrame, *found: Variant) -> list[dict[str, str]]:
    (table,) = variants_tables(main, found)
    return table.to_dict("records")


def test_more_protection_is_compared_run_by_run(main: pd.DataFrame) -> None:
    found = variant(runs_frame(grid(protected_languages=ALL)), main)
    assert found.name == "de-protecting-en-es-fr-it"
    assert set(found.main["budget"]) == set(BUDGETS) and set(found.main["seed"]) == set(range(3))
    text = changes(found)
    for arm, name in (("one_scalar", "one scalar"), ("lora_r1", "LoRA r1")):
        halves, others = [], []
        for seed in range(SEEDS):
            damage = synthetic.record(arm, 64, seed).damage_nats
            halves.append(-damage["en"] / 2)
            others.append(-np.mean([damage[name] for name in ("fr", "es", "it")]) / 2)
        cells = []
        for values in (np.zeros(SEEDS), np.array(halves), np.array(others)):
            held = estimate(values)
            cells.append(interval(held.value, held.low, held.high))
        assert f"| {name} | 64 | {' | '.join(cells)} |" in text


def test_one_table_of_targets_with_the_main_one_first(main: pd.DataFrame) -> None:
    frames = [runs_frame(grid(target_language=name)) for name in ("fr", "it")]
    found = [variant(frame, main) for frame in frames]
    assert [v.name for v in found] == ["fr-protecting-en", "it-protecting-en"]
    rows = rows_of(main, *found)
    assert [row["target"] for row in rows] == sum(
        ([name] * 5 for name in ("German", "French", "Italian")), []
    )
    assert rows[0]["scaled"] == "h.3.attn.v_proj:5" and rows[1]["scaled"] == "–"
    names = ("protected", "arm", "scaled", "tokens to target", "budget")
    cells = ["en", "one scalar", "h.3.attn.v_proj:5", "64 [4, 64]", "64"]
    assert [rows[5][name] for name in names] == cells
    english = [synthetic.record("one_scalar", 64, n).damage_nats["en"] / 2 for n in range(SEEDS)]
    held = estimate(np.array(english))
    assert rows[5]["damage, protected"] == interval(held.value, held.low, held.high)


def test_one_table_of_decompositions_with_the_main_one_first(main: pd.DataFrame) -> None:
    records = grid(hashes=OTHER)
    for record in records:
        record.config["decomposition"] = {"folder": "somewhere/seed1"}
    found = variant(runs_frame(records), main)
    assert found.name == "de-protecting-en-seed1"
    rows = rows_of(main, found)
    names = [row["decomposition"] for row in rows]
    assert len(set(names[:5])) == 1 and names[5:] == ["seed1"] * 5
    english = [synthetic.record("one_scalar", 64, n).damage_nats["en"] / 2 for n in range(SEEDS)]
    held = estimate(np.array(english))
    assert rows[5]["damage, protected"] == interval(held.value, held.low, held.high)
    # one of other runs stands in a table of its own
    few = variant(runs_frame(grid(target_language="fr")[:4]), main)
    assert [len(table) for table in variants_tables(main, [found, few])] == [10, 2]


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


def test_a_variant_writes_nowhere_else(main: pd.DataFrame) -> None:
    frame = runs_frame(grid(target_language="fr")).assign(target_language="../../../x")
    with pytest.raises(UserError, match="cannot be the name of a file"):
        variant(frame, main)


def test_one_variant_given_twice(main: pd.DataFrame) -> None:
    one = variant(runs_frame(grid(target_language="fr")), main)
    with pytest.raises(UserError, match="fr-protecting-en is given more than once"):
        check_distinct([one, one])


def test_the_stage_keeps_them_beside_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "save", lambda *_: None)  # drawing is slow, and seen elsewhere
    arms = ("one_scalar", "lora_r1")
    write(tmp_path / "runs", synthetic.records(arms, BUDGETS, SEEDS))
    mine = [changed(arm, 4, seed, target_language="fr") for arm in arms for seed in range(SEEDS)]
    write(tmp_path / "fr", mine)
    out = tmp_path / "out"
    run(_figures(str(tmp_path / "runs"), str(out), variants=[str(tmp_path / "fr")]))
    page = (out / "README.md").read_text()
    assert "| French | en |" in page and "variants/fr-protecting-en.md" in page
    # the next call finds the table where this one left it
    table = out / "variants" / "fr-protecting-en.csv"
    written = table.read_bytes()
    assert "French destroyed" in table.with_suffix(".md").read_text()
    run(_figures(str(out / "runs.csv"), str(out)))
    assert (out / "README.md").read_text() == page
    # what a call does not name is left alone, a table with more runs than the main ones too
    longer = synthetic.records(arms, (4, 16), SEEDS)
    more = [replace(record, protected_languages=["en", "fr"]) for record in longer]
    write(tmp_path / "more", more)
    run(_figures(str(out / "runs.csv"), str(out), variants=[str(tmp_path / "more")]))
    assert "French destroyed" not in (out / "README.md").read_text()
    assert table.read_bytes() == written
    assert len(pd.read_csv(out / "variants" / "de-protecting-en-fr.csv")) == len(more)
    run(_figures(str(out / "runs.csv"), str(out), variants=[]))
    assert len(list((out / "variants").glob("*.csv"))) == 2 and table.read_bytes() == written
    with pytest.raises(UserError, match="absent': there is no such folder or table"):
        run(_figures(str(out / "runs.csv"), str(out), variants=[str(tmp_path / "absent")]))
    bad = tmp_path / "bad.csv"
    bad.write_text("arm,budget\n")
    with pytest.raises(UserError, match="bad.csv': .* is no table of runs"):
        run(_figures(str(out / "runs.csv"), str(out), variants=[str(bad)]))


def test_text_without_code_or_english(main: pd.DataFrame) -> None:
    """As of `languages=local`: columns are those there are."""

    def without(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.drop(columns=["damage_code_nats", "damage_en_nats"]).assign(
            protected_languages="fr"
        )

    italian = variant(without(runs_frame(grid(target_language="it"))), without(main))
    found = [row for row in rows_of(italian.main, italian) if row["target"] == "Italian"]
    assert (found[0]["protected"], found[0]["arm"]) == ("fr", "one scalar")
    spared = without(runs_frame(grid())).assign(protected_languages="fr es")
    assert "| damage fr | damage es, it |" in changes(variant(spared, without(main)))
