"""The page says what the numbers say, and the one that ships is what the code makes of them."""

import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from pd_finetune.report.build import costs_of, fires_of, of_variant
from pd_finetune.report.page import Findings, page, page_of_budgets
from pd_finetune.report.tables import WORDS, headline_table
from pd_finetune.results.comparison import comparison_budgets
from pd_finetune.results.frame import read_frame, runs_frame
from pd_finetune.results.rollouts import Rollout, read_rollouts
from pd_finetune.results.summary import summarise
from pd_finetune.results.tuning import read_trials
from pd_finetune.results.variants import VARIANTS, variant
from pd_finetune.tables import interval, latex, markdown, number
from tests.plots import synthetic

SHIPPED = Path(__file__).parent.parent.parent / "results" / "embedded"


@pytest.fixture(scope="module")
def trials() -> pd.DataFrame:
    return read_trials(SHIPPED / "tuning")


@pytest.fixture(scope="module")
def shipped(trials: pd.DataFrame) -> Findings:
    """Everything again from the files that ship, but for the pictures."""
    frame = read_frame(SHIPPED / "runs.csv")
    return Findings(
        frame,
        fires_of(frame),
        read_rollouts(SHIPPED / "rollouts.jsonl"),
        costs_of(frame, trials, published=True),
        [variant(read_frame(path), frame) for path in sorted((SHIPPED / VARIANTS).glob("*.csv"))],
        drawn=[name for name in WORDS["captions"] if (SHIPPED / f"{name}.png").is_file()],
    )


def test_the_page_that_ships_is_what_the_code_makes(shipped: Findings) -> None:
    assert (SHIPPED / "README.md").read_text() == page(shipped)
    assert (SHIPPED / "table.md").read_text() == page_of_budgets(shipped)
    table = headline_table(shipped.frame, shipped.summary)
    assert (SHIPPED / "headline.md").read_text() == markdown(table)
    assert (SHIPPED / "headline.tex").read_text() == latex(table)
    parts = pd.DataFrame([asdict(part) for part in shipped.parts])
    found = pd.read_csv(SHIPPED / "claims.csv")
    pd.testing.assert_frame_equal(found.fillna({"text": ""}), parts, check_dtype=False)
    assert set(shipped.drawn) == set(WORDS["captions"])
    for link in re.findall(r"\]\(([^)]+)\)", page(shipped)):
        assert (SHIPPED / link).exists(), link


def test_a_variants_page_is_the_same_with_its_change(
    shipped: Findings, trials: pd.DataFrame
) -> None:
    one = next(found for found in shipped.variants if found.name == "fr-protecting-en")
    text = page(of_variant(one, trials))
    assert (SHIPPED / VARIANTS / f"{one.name}.md").read_text() == text
    headings = [line for line in page(shipped).splitlines() if line.startswith("## ")]
    own = [line for line in text.splitlines() if line.startswith("## ")]
    assert set(own) - set(headings) == {"## Beside the main runs"}
    assert set(headings) - set(own) == {"## Figures", "## Variants", "## Files"}
    assert "French destroyed, English protected" in text


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
    own = frame[(frame["arm"] == "lora_r4") & (frame["budget"] == 64)]
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
    text = page(Findings(frame, drawn=["to_chance"]))
    assert "python -m pd_finetune.rollouts` makes them" in text
    assert "records of target and decomposition are not at hand" in text
    assert "not testable with what was run here" in text
    assert "| C7 |" in text and "2 seeds each" in text


HOSTILE = "<img src=x onerror=alert(1)> | [x](javascript:1) `*_"


def test_hostile_names_and_prompts_are_shown_as_text() -> None:
    records = [replace(synthetic.record("top16", 4, n), arm=HOSTILE) for n in range(2)]
    records += [synthetic.record("lora_r1", 4, seed) for seed in range(2)]
    said = ["two\n\n# lines", "greedy", 0, "de", f"{HOSTILE}\n\n# heading", HOSTILE]
    texts = [Rollout(arm, 4, 0, *said[1:], "de", 0.0) for arm in (HOSTILE, said[0])]
    frame = runs_frame(records).assign(evaluation_split="<script>")
    text = page(Findings(frame, rollouts=pd.DataFrame([asdict(one) for one in texts])))
    for raw in ("<img", "<script", "[x]", "\n# heading", "\n# lines", "`*_"):
        assert raw not in text
    cell = r"&lt;img src=x onerror=alert(1)&gt; \| \[x\](javascript:1) \`\*\_"
    assert f"| {cell} | 4 | greedy |" in text and f"> {cell} # heading" in text.replace(r"\#", "#")


def test_the_page_needs_no_docstrings() -> None:
    """Under `python -OO` there are none."""
    code = (
        "from tests.plots import synthetic; from pd_finetune.report.page import Findings, page;"
        "from pd_finetune.results.frame import runs_frame;"
        "print(page(Findings(runs_frame(synthetic.records(seeds=2)))))"
    )
    plain, bare = (
        subprocess.run(
            [sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True
        )
        for flags in ([], ["-OO"])
    )
    assert plain.stdout == bare.stdout and "A claim of direction" in bare.stdout
