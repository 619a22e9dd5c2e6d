"""The headline table: every arm at the budget where it is compared; Markdown and LaTeX."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from pd_finetune.results.reached import comparison_budgets, tokens_text, tokens_to_target
from pd_finetune.results.summary import damage_languages

_ESCAPED = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_"}


def number(value: float, digits: int = 2) -> str:
    """A signed number with a true minus; a dash where it is absent."""
    if math.isnan(value):
        return "–"
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text[1:] if float(f"{value:.{digits}f}") == 0 else text


def interval(value: float, low: float, high: float, digits: int = 2) -> str:
    """`+0.12 [+0.08, +0.14]`, or the number alone where there is no interval."""
    if math.isnan(low) or math.isnan(high):
        return number(value, digits)
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def headline_table(frame: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """One row per arm: tokens to target, and at its budget gap to chance and damage by language.

    Medians over seeds with 95 % intervals, in nats per token. A budget at which the arm is not at
    chance, its best, is marked by an asterisk.
    """
    target = str(frame["target_language"].iloc[0])
    reached: Any = tokens_to_target(frame).set_index("arm")
    medians: Any = summary.set_index(["arm", "budget", "measure"])
    rows = []
    for place in comparison_budgets(frame).itertuples():
        row = {
            "arm": place.arm,
            "parameters": str(frame[frame["arm"] == place.arm]["trainable_parameters"].iloc[0]),
            "tokens to target": tokens_text(reached.loc[place.arm]),
            "budget": f"{place.budget:,}{'' if place.at_chance else '*'}",
        }
        measures = {"to_chance_nats": f"{target} to chance"}
        measures |= {f"damage_{name}_nats": name for name in damage_languages(frame)}
        for measure, column in measures.items():
            found = medians.loc[(place.arm, place.budget, measure)]
            row[column] = interval(found["median"], found["median_low"], found["median_high"])
        rows.append(row)
    return pd.DataFrame(rows)


def latex(table: pd.DataFrame) -> str:
    """A tabular in booktabs style (needs that package), text to the left and numbers right."""
    lines = [
        r"\begin{tabular}{l" + "r" * (len(table.columns) - 1) + "}",
        r"\toprule",
        _line(list(map(str, table.columns))),
        r"\midrule",
        *(_line([str(value) for value in row]) for row in table.itertuples(index=False)),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return " & ".join(map(_tex, cells)) + r" \\"


def _tex(text: str) -> str:
    escaped = "".join(_ESCAPED.get(letter, letter) for letter in text)
    return escaped.replace("−", "$-$").replace("–", "--").replace("> ", "$>$ ")
