"""What all figures share: colours, type, labels at the ends of lines, and the files written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import (
    FixedLocator,
    LogLocator,
    NullFormatter,
    NullLocator,
    StrMethodFormatter,
)

from pd_finetune.files import replacing
from pd_finetune.results.arms import arms_of, committed_arms
from pd_finetune.results.frame import protected_of
from pd_finetune.tables import write_csv
from pd_finetune.text.languages import LANGUAGE_NAMES

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_ROOMY_TICKS = 8  # on a budget axis; the labels of more would run into each other
MUTED, INK = "#6b6b6b", "#222222"
_RC = matplotlib.rc_params_from_file(
    str(Path(__file__).with_name("figures.mplstyle")), use_default_template=False
)


@dataclass
class Drawing:
    """A figure and the numbers that it shows."""

    figure: Figure
    numbers: pd.DataFrame


@dataclass(frozen=True)
class Look:
    """How a line is drawn and named; that of an arm is the same in every figure."""

    label: str
    colour: str
    marker: str = ""


def looks(frame: pd.DataFrame) -> dict[str, Look]:
    """How each arm is drawn; the committed ones look the same whichever others are there."""
    places = list(committed_arms())
    found: dict[str, Look] = {}
    for name, arm in arms_of(frame["arm"]).items():
        place = places.index(name) if name in places else len(places) + len(found)
        found[name] = Look(arm.label, arm.colour, _MARKERS[place % len(_MARKERS)])
    return found


def language_name(language: str) -> str:
    """`de` -> `German`; a language without a name here keeps its code."""
    return LANGUAGE_NAMES.get(language, language)


def target_name(frame: pd.DataFrame) -> str:
    """Name of the language to be destroyed."""
    return language_name(str(frame["target_language"].iloc[0]))


def protected_names(frame: pd.DataFrame) -> list[str]:
    """Names of the protected languages."""
    return [language_name(code) for code in protected_of(frame)]


def protected_name(frame: pd.DataFrame) -> str:
    """What the protected damage is of: the one language, or the worst of several."""
    names = protected_names(frame)
    return names[0] if len(names) == 1 else f"largest of {', '.join(names)}"


def runs_note(statistic: str, seeds: Iterable[int], interval: str = "") -> str:
    """`median of 5 runs, band: ...`, `median of 3 to 5 runs, ...`, or `one run each`."""
    counts = sorted(set(seeds))
    if counts == [1]:
        return "one run each"
    runs = f"{counts[0]} runs" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} runs"
    note = f", {interval}: 95 % bootstrap interval" if interval else ""
    return f"{statistic} of {runs}{note}"


@contextmanager
def canvas(title: str, subtitle: str, size: tuple[float, float]) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one pair of axes in the shared style, without pyplot's global state."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=size)
        axes = figure.subplots()
        axes.set_title(title, fontweight="bold")
        note(axes, subtitle, (0, 1), (0, 6), xycoords="axes fraction")
        yield figure, axes


@contextmanager
def grid(
    title: str, subtitle: str, rows: int, columns: int, size: tuple[float, float], **options: Any
) -> Iterator[tuple[Figure, list[list[Axes]]]]:
    """A figure of rows x columns axes in the shared style; `options` as for `Figure.subplots`."""
    with matplotlib.rc_context(_RC | {"axes.titlepad": 6, "axes.titlesize": 9.5}):
        figure = Figure(figsize=size)
        axes = figure.subplots(rows, columns, squeeze=False, **options)
        lines = 1 + subtitle.count("\n")
        # empty lines keep room for the subtitle
        figure.suptitle(f"{title}" + "\n" * lines, x=0.01, ha="left", fontsize=11, weight="bold")
        below = 1 - 0.33 / size[1]
        figure.text(0.01, below, subtitle, va="top", fontsize=8.5, color=MUTED, in_layout=False)
        yield figure, [list(row) for row in axes]


@contextmanager
def panels(title: str, subtitle: str, count: int) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of `count` small axes in rows of up to three, with shared scales."""
    columns = min(count, 3)
    rows = -(-count // columns)
    size = (max(2.4 * columns, 5.0), 2.0 * rows + 1.1)
    with grid(title, subtitle, rows, columns, size, sharex=True, sharey=True) as (figure, axes):
        flat = [panel for row in axes for panel in row]
        for spare in flat[count:]:
            spare.set_visible(False)
        yield figure, flat[:count]


def note(
    axes: Axes, text: str, at: tuple[Any, Any], shift: tuple[float, float], **options: Any
) -> None:
    """Small print at a place, moved by some points; `options` as for `Axes.annotate`."""
    usual: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8.5, "color": MUTED}
    axes.annotate(text, at, shift, **(usual | options))


def budget_axis(axes: Axes, budgets: Iterable[int], language: str) -> None:
    """A log2 axis with a tick at each budget."""
    axes.set_xscale("log", base=2)
    ticks = sorted(set(budgets))
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    if len(ticks) > _ROOMY_TICKS:
        axes.tick_params(axis="x", labelsize=7.5)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel(f"budget [{language} training tokens]")


def bare(axes: Axes) -> None:
    """No ticks and no frame: for heat maps and columns of text."""
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def contrast(colour: Sequence[float]) -> str:
    """Ink or white, whichever is legible on a colour (relative luminance, ITU-R BT.709)."""
    red, green, blue = colour[:3]
    return INK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else "white"


def mark_level(
    axes: Axes, level: float, text: str, above: bool, dashed: bool = False, right: bool = False
) -> None:
    """A thin horizontal line across, named at its left end, or at its `right` one."""
    axes.axhline(level, color=MUTED, linewidth=0.8, linestyle="--" if dashed else "-", zorder=1)
    note(
        axes,
        text,
        (1 if right else 0, level),
        (-3 if right else 3, 2 if above else -2),
        xycoords=("axes fraction", "data"),
        fontsize=8,
        horizontalalignment="right" if right else "left",
        verticalalignment="bottom" if above else "top",
        # readable where another level or a mark runs through it
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        zorder=4,
    )


def plain_log(axis: Axis, *subs: float) -> None:
    """Plain numbers at the ticks of a logarithmic axis, at these multiples of powers of ten."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def tokens(count: int) -> str:
    """`1 token`, `1,024 tokens`."""
    return f"{count:,} token{'' if count == 1 else 's'}"


def save(drawing: Drawing, folder: Path, name: str) -> list[Path]:
    """Write `<name>.png`, `<name>.svg` and `<name>.csv`, each atomically."""
    made = []
    for kind, options in (("png", {"dpi": 200}), ("svg", {"metadata": {"Date": None}})):
        path = folder / f"{name}.{kind}"
        with matplotlib.rc_context(_RC), replacing(path) as temporary:
            drawing.figure.savefig(temporary, format=kind, **options)
        made.append(path)
    write_csv(drawing.numbers, folder / f"{name}.csv")
    return [*made, folder / f"{name}.csv"]
