"""The page says what the numbers say, and the one that ships is what the code makes of them."""

import re
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from pd_finetune.plots.tables import markdown
from pd_finetune.report.headline import headline_table, interval, latex, number
from pd_finetune.report.page import CAPTIONS, Costs, Findings, page
from pd_finetune.results.break_even import break_even
from pd_finetune.results.claims import answers
from pd_finetune.results.costs import edits, folders_of, preparation, sizes_of
from pd_finetune.results.evidence import Evidence
from pd_finetune.results.firing import fires_on, harvest_folder
from pd_finetune.results.reached import comparison_budgets
from pd_finetune.results.rollouts import read_rollouts
from pd_finetune.results.summary import read_frame, runs_frame, summarise
from pd_finetune.results.tuning import read_trials
from pd_finetune.results.variants import VARIANTS, variant
from tests.plots import synthetic

SHIPPED = Path(__file__).parent.parent.parent / "results" / "embedded"


@pytest.fixture(scope="module")
def shipped() -> Findings:
    """Everything again from the files that ship, but for the pictures."""
    frame = read_frame(SHIPPED / "runs.csv")
    trials = read_trials(SHIPPED / "tuning")
    folders, harvest = folders_of(frame), harvest_folder(frame)
    assert folders is not None and harvest is not None
    prepared, spent = preparation(frame, *folders), edits(frame, trials, sizes_of(*folders))
    texts = read_rollouts(SHIPPED / "rollouts.jsonl")
    return Findings(
        frame,
        summarise(frame),
        answers(Evidence(frame, fires_on(frame, harvest), texts)),
        [name for name in CAPTIONS if (SHIPPED / f"{name}.png").is_file()],
        texts,
        Costs(prepared, spent, break_even(frame, prepared, spent)),
        [variant(read_frame(path), frame) for path in sorted((SHIPPED / VARIANTS).glob("*.csv"))],
    )


def test_the_page_that_ships_is_what_the_code_makes(shipped: Findings) -> None:
    assert (SHIPPED / "README.md").read_text() == page(shipped)
    table = headline_table(shipped.frame, shipped.summary)
    assert (SHIPPED / "headline.md").read_text() == markdown(table)
    assert (SHIPPED / "headline.tex").read_text() == latex(table)
    parts = pd.DataFrame([asdict(part) for part in shipped.parts])
    found = pd.read_csv(SHIPPED / "claims.csv")
    pd.testing.assert_frame_equal(found.fillna({"text": ""}), parts, check_dtype=False)
    assert set(shipped.drawn) == set(CAPTIONS)
    for link in re.findall(r"\]\(([^)]+)\)", page(shipped)):
        assert (SHIPPED / link).is_file(), link


def test_bars_that_ship_are_the_true_means(shipped: Findings) -> None:
    bars = pd.read_csv(SHIPPED / "off_target.csv")
    frame = shipped.frame
    for row in bars.itertuples():
        own = frame[(frame["arm"] == row.arm) & (frame["budget"] == row.budget)]
        assert row.mean == pytest.approx(own[f"damage_{row.language}_nats"].mean(), abs=1e-12)
    compared = comparison_budgets(frame).set_index("arm")["budget"].to_dict()
    assert bars.groupby("arm")["budget"].first().to_dict() == compared


def test_the_headline_has_the_medians() -> None:
    frame = runs_frame(synthetic.records())
    summary = summarise(frame)
    table = headline_table(frame, summary).set_index("arm")
    own = frame[(frame["arm"] == "LoRA r4") & (frame["budget"] == 64)]
    assert table.loc["LoRA r4", "budget"] == "64"  # at chance there
    assert table.loc["LoRA r4", "fr"].startswith(f"{own['damage_fr_nats'].median():+.2f} [")
    few = frame[frame["budget"] <= 4]
    table = headline_table(few, summarise(few)).set_index("arm")
    assert table.loc["LoRA r1", "budget"] == "4*"
    assert table.loc["LoRA r1", "tokens to target"] == "> 4 [> 4, > 4]"
    text = latex(table.reset_index())
    assert text.count(r"\\") == 6 and "$-$" in text or "+" in text
    assert "$>$ 4" in text and text.startswith(r"\begin{tabular}{lrrr")


def test_numbers() -> None:
    nan = float("nan")
    assert (number(-0.5), number(0.004), number(-0.004), number(nan)) == (
        "−0.50",
        "0.00",
        "0.00",
        "–",
    )
    assert interval(1.0, nan, nan) == "+1.00"
    assert interval(1.0, -0.25, 2.0, 1) == "+1.0 [−0.2, +2.0]"


def test_what_is_not_there_is_said() -> None:
    frame = runs_frame(synthetic.records(("one_scalar",), (4,), 2))
    text = page(Findings(frame, summarise(frame), answers(Evidence(frame)), ["to_chance"]))
    assert "python -m pd_finetune.rollouts` makes them" in text
    assert "records of target and decomposition are not at hand" in text
    assert "not testable with what was run here" in text
    assert "| C7 |" in text and "2 seeds each" in text
