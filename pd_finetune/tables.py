"""Tables as text and files, one way for all: Markdown, LaTeX, CSV, and numbers in their cells."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Container
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pd_finetune.files import write_text

# what Markdown would read as more than text; an underscore inside a word is text
_SPECIAL = re.compile(r"[\\`*|\[\]#~]|(?<![^\W_])_|_(?![^\W_])")
# `16 [2, > 64]`, `−0.1 [-0.2, +0.1]`, `1,024*`: nothing to escape
_NUMERIC = re.compile(r"[>+−–-]? ?\d[\d\s.,+−–>*\[\]-]*")


def escaped(text: str) -> str:
    """One line that Markdown, and the HTML made of it, show as it is, whatever stands in it."""
    flat = " ".join(text.split())
    if _NUMERIC.fullmatch(flat):
        return flat
    return _SPECIAL.sub(r"\\\g<0>", html.escape(flat, quote=False))


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


def markdown(
    table: pd.DataFrame, written: Container[str] = (), right: Container[str] | None = None
) -> str:
    """A table in Markdown; absent values as a dash.

    Args:
        written: columns whose cells are Markdown already; all others are shown as they are.
        right: columns set to the right, by default those of numbers.
    """
    names = [str(name) for name in table.columns]
    numeric = [
        pd.api.types.is_numeric_dtype(kind) if right is None else name in right
        for name, kind in zip(names, table.dtypes, strict=True)
    ]
    lines = [names, ["---:" if it_is else "---" for it_is in numeric]]
    for row in table.itertuples(index=False):
        cells = ["–" if pd.isna(value) else str(value) for value in row]
        lines.append(
            [
                cell if name in written else escaped(cell)
                for name, cell in zip(names, cells, strict=True)
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(table: pd.DataFrame) -> str:
    """A tabular in booktabs style (needs that package), text to the left and numbers right."""
    columns = "l" + "r" * (len(table.columns) - 1)
    text = table.astype(str).to_latex(index=False, escape=True, column_format=columns)
    return text.replace("−", "$-$").replace("–", "--").replace("> ", "$>$ ")


def print_table(table: pd.DataFrame, title: str, console: Console | None = None) -> None:
    """Print a table to the terminal (or another console); columns but the first to the right."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for place, name in enumerate(table.columns):
        shown.add_column(str(name), justify="right" if place else "left")
    for row in table.itertuples(index=False):
        shown.add_row(*(Text("–" if pd.isna(value) else str(value)) for value in row))
    (console or Console()).print(shown)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV with every digit, atomically; dictionaries and lists become JSON."""

    def plain(value: Any) -> Any:
        return json.dumps(value) if isinstance(value, dict | list) else value

    text = table.map(plain).to_csv(index=False, lineterminator="\n")
    write_text(path, text)
