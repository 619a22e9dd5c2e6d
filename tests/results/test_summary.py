"""Arms, what may be pooled, medians with intervals, tokens to target, and the tables."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pd_finetune.errors import UserError
from pd_finetune.records.record import Hashes, RunRecord
from pd_finetune.report.page import Findings, page_of_budgets
from pd_finetune.report.tables import every_budget, spent_table
from pd_finetune.results.arms import arms_of, committed_arms, label
from pd_finetune.results.comparison import comparison_budgets, tokens_to_target
from pd_finetune.results.frame import damage_languages, read_frame, runs_frame
from pd_finetune.results.summary import measure, summarise
from pd_finetune.tables import escaped, markdown, write_csv
from tests.plots import synthetic


def changed(record: RunRecord, **config: Any) -> RunRecord:
    return replace(record, config={**record.config, **config})


def test_arms_are_those_of_the_configs() -> None:
    frame = runs_frame(synthetic.records())
    assert list(arms_of(frame["arm"])) == list(synthetic.ARMS) == list(dict.fromkeys(frame["arm"]))
    assert [label(name) for name in synthetic.ARMS] == synthetic.LABELS
    assert len(frame) == 100
    folder = Path(__file__).parents[2] / "configs" / "arm"
    assert {path.stem for path in folder.glob("*.yaml")} == set(committed_arms())
    assert len({arm.colour for arm in committed_arms().values()}) == len(committed_arms())


def test_other_arms_come_after_and_are_called_by_their_names() -> None:
    found = arms_of(["zebra", "lora_r1", "ant"])
    assert list(found) == ["lora_r1", "ant", "zebra"]
    assert [arm.label for arm in found.values()] == ["LoRA r1", "ant", "zebra"]
    assert len({arm.colour for arm in found.values()}) == 3
    frame = runs_frame([replace(synthetic.record(), arm=""), synthetic.record("top16")])
    assert frame["arm"].tolist() == ["top16", ""] and label("") == "(no arm)"


def test_frame_carries_what_a_run_found() -> None:
    record = synthetic.record("top16", 16, 3)
    row = runs_frame([record]).iloc[0]
    assert (row["arm"], row["budget"], row["seed"]) == ("top16", 16, 3)
    assert row["target_ce_nats"] == record.edited.ce_nats["de"]
    assert row["damage_it_nats"] == record.damage_nats["it"]
    assert row["protected_damage_nats"] == record.damage_nats["en"]
    assert row["masks"] == record.masks and row["trainable_parameters"] == 16
    two = replace(record, protected_languages=["en", "fr"])
    frame = runs_frame([two])
    assert frame["protected_damage_nats"][0] == record.damage_nats["fr"]
    assert damage_languages(frame) == ["en", "fr", "es", "it", "code"]


# ------------------------------------------------------------------ what may be pooled


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (synthetic.record(seed=1, target_language="fr"), "languages.target: de .1 runs., fr"),
        (synthetic.record(seed=1, hashes=Hashes("c", "b" * 64)), "hashes.target: aaaa"),
        (synthetic.record(seed=1, hashes=Hashes("a" * 64, "c")), "hashes.decomposition: bbbb"),
        (synthetic.record(seed=1, protected_languages=["fr"]), "languages.preserve"),
        (
            changed(synthetic.record(seed=1), evaluation={"split": "validation"}),
            "evaluation.split: test .1 runs., validation",
        ),
        (
            changed(synthetic.record(seed=1), method={"name": "mask", "lr": 0.1, "kl_weight": 3.0}),
            "'one scalar' differ in method.lr: 0.1 .1 runs., 0.3",
        ),
    ],
)
def test_what_is_not_one_experiment_is_refused(other: RunRecord, what: str) -> None:
    with pytest.raises(UserError, match=what):
        runs_frame([synthetic.record(), other])


def test_where_a_run_was_done_does_not_matter() -> None:
    other = changed(
        synthetic.record(seed=1),
        model={"folder": "elsewhere", "dtype": "float32"},
        device="cuda",
        paths={"runs": "x"},
        token_budget={**synthetic.record().config["token_budget"], "grid": [1, 2]},
    )
    assert len(runs_frame([synthetic.record(), other])) == 2


def test_arms_may_differ_in_what_is_tuned_for_each() -> None:
    lora = changed(synthetic.record("lora_r1"), method={"name": "lora_r1", "lr": 0.005})
    assert len(runs_frame([synthetic.record(), lora])) == 2


def test_settings_may_be_tuned_per_band_of_budgets_but_not_otherwise() -> None:
    bands = {"1": {"lr": 0.3, "kl_weight": 3.0}, "16": {"lr": 0.1, "kl_weight": 1.0}}
    low = changed(synthetic.record(), method={"name": "mask", "bands": bands, **bands["1"]})
    high = changed(
        synthetic.record(budget=64), method={"name": "mask", "bands": bands, **bands["16"]}
    )
    frame = runs_frame([low, high])
    assert frame["settings"].tolist() == [bands["1"], bands["16"]]
    other = changed(
        synthetic.record(budget=64, seed=1), method={"name": "mask", "bands": bands, **bands["1"]}
    )
    with pytest.raises(UserError, match="'one scalar' differ in method.kl_weight: 3.0 .1 runs."):
        runs_frame([low, high, other])


# ------------------------------------------------------------------ summaries


def test_medians_means_and_intervals() -> None:
    frame = runs_frame(synthetic.records(("one_scalar",), (1, 4), seeds=5))
    found = measure(summarise(frame), "damage_it_nats")
    for row, (_, own) in zip(found.itertuples(), frame.groupby("budget"), strict=True):
        values = own["damage_it_nats"].to_numpy()
        assert row.seeds == 5
        assert row.median == np.median(values) and row.mean == np.mean(values)
        assert values.min() <= row.median_low <= row.median <= row.median_high <= values.max()
        assert values.min() < row.mean_low < row.mean < row.mean_high < values.max()


@pytest.mark.parametrize("runs", [2, 4, 5])
def test_intervals_are_those_of_a_plain_bootstrap(runs: int) -> None:
    frame = runs_frame(synthetic.records(("top16",), (4,), seeds=runs))
    values = frame["to_chance_nats"].to_numpy()
    row = measure(summarise(frame), "to_chance_nats").iloc[0]
    draws = values[np.random.default_rng(0).integers(runs, size=(10_000, runs))]
    for name, statistic in (("median", np.median), ("mean", np.mean)):
        low, high = np.percentile(statistic(draws, axis=1), [2.5, 97.5])
        assert row[f"{name}_low"] == pytest.approx(low, abs=1e-12)
        assert row[f"{name}_high"] == pytest.approx(high, abs=1e-12)


def test_one_run_has_no_interval() -> None:
    frame = runs_frame([synthetic.record()])
    summary = summarise(frame)
    assert summary["median_low"].isna().all() and summary["mean_high"].isna().all()
    assert "[" not in every_budget(frame, summary)["damage en"][0]


def at(budget: int, gaps: list[float], damages: list[float]) -> list[RunRecord]:
    return [
        replace(
            synthetic.record(budget=budget, seed=seed),
            to_chance_nats=gap,
            damage_nats={**synthetic.record().damage_nats, "en": damage},
        )
        for seed, (gap, damage) in enumerate(zip(gaps, damages, strict=True))
    ]


def test_tokens_to_target_is_the_definition() -> None:
    far = at(1, [0.05, 0.2, 0.3], [0.0, 0.0, 0.0])  # the median run is not at chance
    costly = at(2, [0.1, 0.1, 5.0], [0.10, 0.10, 0.0])  # at chance, but 0.10 is too much
    wrong = at(4, [-3.0, -2.0, 9.0], [0.09, 0.5, 0.0])  # beyond chance, and cheap
    row = tokens_to_target(runs_frame([*far, *costly, *wrong])).iloc[0]
    assert (row["at_chance_tokens"], row["target_tokens"], row["largest_budget"]) == (2, 4, 4)
    row = tokens_to_target(runs_frame([*far, *costly])).iloc[0]
    assert row["at_chance_tokens"] == 2 and row["target_tokens"] is pd.NA
    assert tokens_to_target(runs_frame(far))["at_chance_tokens"].isna().all()


def test_intervals_of_tokens_to_target_resample_seeds_with_all_their_budgets() -> None:
    runs = [*at(1, [0.0, 0.0, 3.0], [0.0] * 3), *at(4, [0.0, 3.0, 3.0], [0.0] * 3)]
    runs += at(16, [0.0, 0.0, 0.0], [0.0] * 3)
    frame = runs_frame(runs)
    row = tokens_to_target(frame).iloc[0]
    assert row["target_tokens"] == 1 and row["target_tokens_low"] == 1
    assert row["target_tokens_high"] == 16 and row["intervals"]
    # the plain way: two of three drawn seeds decide each median
    values = frame.pivot(index="seed", columns="budget", values="to_chance_nats").to_numpy()
    draws = np.random.default_rng(0).integers(3, size=(10_000, 3))
    first = [
        next(
            b
            for b, gap in zip((1, 4, 16), np.median(values[draw], axis=0), strict=True)
            if gap <= 0.1
        )
        for draw in draws[:500]
    ]
    assert set(first) == {1, 16}
    never = tokens_to_target(runs_frame(at(1, [3.0] * 3, [0.0] * 3))).iloc[0]
    assert never["target_tokens_low"] is pd.NA and never["intervals"]
    uneven = tokens_to_target(runs_frame([*at(1, [0.0] * 3, [0.0] * 3), *at(4, [0.0], [0.0])]))
    assert not uneven["intervals"][0] and uneven["target_tokens"][0] == 1


def test_arms_are_compared_where_first_at_chance_or_at_their_best() -> None:
    reached = [*at(1, [0.5], [0.0]), *at(4, [0.1], [0.0]), *at(16, [-2.0], [0.0])]
    found = comparison_budgets(runs_frame(reached)).iloc[0]
    assert (found["budget"], bool(found["at_chance"]), found["to_chance_nats"]) == (4, True, 0.1)
    never = [*at(1, [0.5], [0.0]), *at(4, [0.2], [0.0]), *at(16, [0.7], [0.0])]
    found = comparison_budgets(runs_frame(never)).iloc[0]
    assert (found["budget"], bool(found["at_chance"])) == (4, False)


# ------------------------------------------------------------------ tables


def test_the_table_of_all_budgets_has_arms_by_budget_and_true_medians() -> None:
    frame = runs_frame(synthetic.records(budgets=(4, 16)))
    table = every_budget(frame, summarise(frame))
    assert list(table.columns) == [
        *("arm", "budget", "seeds", "de to chance"),
        *("damage en", "damage fr", "damage es", "damage it", "damage code"),
    ]
    assert list(table["arm"]) == [arm for arm in synthetic.LABELS for _ in range(2)]
    own = frame[(frame["arm"] == "lora_r4") & (frame["budget"] == 16)]
    cell = table[(table["arm"] == "LoRA r4") & (table["budget"] == 16)]["damage fr"].iloc[0]
    assert cell.startswith(f"{own['damage_fr_nats'].median():.3f} [")


def test_markdown_and_page() -> None:
    table = pd.DataFrame({"arm": ["a"], "tokens": pd.array([pd.NA], dtype="Int64")})
    assert markdown(table) == "| arm | tokens |\n| --- | ---: |\n| a | – |\n"
    frame = runs_frame(synthetic.records(("one_scalar", "lora_r1"), (4,), 2))
    text = page_of_budgets(Findings(frame))
    for part in ("# 4 runs", "chance is 8.318 nats", "| LoRA r1 | 4 | 2 |", "test text"):
        assert part in text
    assert spent_table(frame)["labels_tokens"].tolist() == [1000, 0]


def test_csv_keeps_every_digit(tmp_path: Path) -> None:
    frame = runs_frame(synthetic.records(("one_scalar", "top16"), (4,), 2))
    write_csv(frame, tmp_path / "runs.csv")
    back = read_frame(tmp_path / "runs.csv")
    pd.testing.assert_frame_equal(back, frame, check_exact=True, check_dtype=False)
    assert back["masks"][0] == frame["masks"][0]
    pd.testing.assert_frame_equal(summarise(back), summarise(frame), check_exact=True)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no table of runs"):
        read_frame(tmp_path / "other.csv")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("masks", "", "no table of runs"),
        ("masks", "[1]", "no table of runs"),
        ("masks", "[" * 200_000, "no table of runs"),
        ("selection", "{}", "no table of runs"),
        ("budget", "four", "no table of runs"),
        ("to_chance_nats", "", "no table of runs"),
        ("target_language", "fr", "differ in target_language: de, fr"),
        ("decomposition_hash", "c", "differ in decomposition_hash"),
        ("seed", "1", "has the run one scalar, 4 tokens, seed 1 twice"),
    ],
)
def test_a_damaged_table_is_refused_in_a_line(
    tmp_path: Path, column: str, value: str, message: str
) -> None:
    write_csv(runs_frame(synthetic.records(("one_scalar",), (4,), 2)), tmp_path / "runs.csv")
    table = pd.read_csv(tmp_path / "runs.csv", dtype=str)
    table.loc[0, column] = value
    table.to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(UserError, match=message) as raised:
        read_frame(tmp_path / "runs.csv")
    assert "\n" not in str(raised.value)[:1000]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("LoRA r1", "LoRA r1"),
        ("h.3.attn.v_proj:5", "h.3.attn.v_proj:5"),
        ("−0.5 [−0.6, > 64]", "−0.5 [−0.6, > 64]"),
        ("1,024*", "1,024*"),
        ("<b>|a&b|</b>", r"&lt;b&gt;\|a&amp;b\|&lt;/b&gt;"),
        ("_x_ [a](b) `c`\n# d", r"\_x\_ \[a\](b) \`c\` \# d"),
        ("***", r"\*\*\*"),
    ],
)
def test_text_stays_text(text: str, expected: str) -> None:
    assert escaped(text) == expected
