"""The tables beside the figures: a page in Markdown, and the headline on the terminal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pd_finetune.results.reached import tokens_to_target
from pd_finetune.results.summary import costs, damage_languages
from pd_finetune.results.table import AT_CHANCE_NATS, DAMAGE_NATS


def _cell(row: Any) -> str:
    if np.isnan(row.median_low):
        return f"{row.median:.3f}"
    return f"{row.median:.3f} [{row.median_low:.3f}, {row.median_high:.3f}]"


def headline(frame: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """Arm by budget: target to chance and damage per language, as `median [interval]`, in nats."""
    target = frame["target_language"].iloc[0]
    shown = {"to_chance_nats": f"{target} to chance"}
    shown |= {f"damage_{name}_nats": f"damage {name}" for name in damage_languages(frame)}
    keys = ["arm", "budget", "seeds"]
    long = summary[summary["measure"].isin(list(shown))]
    cells = pd.Series([_cell(row) for row in long.itertuples()], index=long.index, dtype=object)
    wide = long[[*keys, "measure"]].assign(cell=cells).set_index([*keys, "measure"])["cell"]
    rows = wide.unstack("measure").reset_index()
    order = long[keys].drop_duplicates()
    return order.merge(rows, on=keys)[[*keys, *shown]].rename(columns=shown)


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown: text to the left, numbers to the right, absent values as a dash."""
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table.columns]
    lines = [list(map(str, table.columns)), ["---:" if right else "---" for right in numeric]]
    for row in table.itertuples(index=False):
        lines.append(["–" if value is pd.NA else str(value) for value in row])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page(frame: pd.DataFrame, summary: pd.DataFrame) -> str:
    """The tables in Markdown, with what they are made of."""
    first = frame.iloc[0]
    target, protected = first["target_language"], first["protected_languages"]
    return (
        f"# {len(frame)} runs\n\n"
        f"Target language {target}, protected {protected}, evaluated on "
        f"{first['evaluation_split']} text; chance is {first['chance_nats']:.3f} nats.\n"
        f"Median over seeds [95 % bootstrap interval], in nats per token. Budget: {target} tokens "
        "that the fine-tune sees at all.\n"
        "To chance: chance minus cross-entropy; below 0 the model is confidently wrong. "
        "Damage: cross-entropy after minus before.\n\n"
        f"{markdown(headline(frame, summary))}\n"
        "## Tokens to target\n\n"
        f"Smallest budget at which the median gap to chance is at most {AT_CHANCE_NATS} nats "
        f"(`at_chance_tokens`), and the median damage to {protected} below {DAMAGE_NATS:.2f} nats "
        "too (`target_tokens`), with 95 % bootstrap intervals over seeds (`_low`, `_high`); "
        "a dash: at none that was tried.\n\n"
        f"{markdown(tokens_to_target(frame).drop(columns='intervals'))}\n"
        "## What else was spent\n\n"
        f"{target} tokens beside the budget: for choosing subcomponents, for labels, for tuning "
        "learning rates. The cost of the decomposition itself is not in here.\n\n"
        f"{markdown(costs(frame))}"
    )


def print_headline(frame: pd.DataFrame, summary: pd.DataFrame, console: Console) -> None:
    """Medians alone, so that a line fits a terminal; green where the target is met."""
    languages = damage_languages(frame)
    protected = str(frame["protected_languages"].iloc[0]).split()
    shown = {"to_chance_nats": "to chance"}
    shown |= {f"damage_{name}_nats": name for name in languages}
    limits = dict.fromkeys((f"damage_{name}_nats" for name in protected), DAMAGE_NATS)
    target = frame["target_language"].iloc[0]
    title = f"medians: {target} to chance, then damage by language [nats per token]"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", padding=0)
    table.add_column("arm")
    for column in ("budget", "seeds", *shown.values()):
        table.add_column(column, justify="right", no_wrap=True)
    for (arm, budget), own in summary.groupby(["arm", "budget"], sort=False):
        medians = own.set_index("measure")["median"]
        cells = []
        for name in shown:
            value = float(medians[name])
            met = value <= AT_CHANCE_NATS if name == "to_chance_nats" else None
            met = value < limits[name] if name in limits else met
            colour = {True: "green", False: "red", None: ""}[met]
            cells.append(Text(f"{value:+.3f}", style=colour))
        table.add_row(Text(str(arm)), str(budget), str(own["seeds"].iloc[0]), *cells)
    console.print(table)
