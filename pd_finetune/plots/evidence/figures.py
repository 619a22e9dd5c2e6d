"""The four figures of an evidence record: the adversary's climb, and importances by site."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pd_finetune.plots import style
from pd_finetune.plots.lines import label_ends

_LEVELS = {  # maskings that the adversary is to be compared with
    "zero": (style.Look("zero-masked", "#000000"), "-"),
    "random": (style.Look("random masks", "#CC79A7"), "-."),
    "ci_masked": (style.Look("CI-masked", "#009E73"), "--"),
    "stochastic": (style.Look("stochastic", "#0072B2"), ":"),
}
_ADVERSARY = style.Look("adversary", "#D55E00", "o")
_COLUMNS = ["C", "rank", "alive", "ci_l0", "ci_l0_above_0.1"]
_END = 0.035  # distance of the marks of exactly 0 and exactly 1 from the bins
_LEGEND = 8  # layers named in a legend; of more, the first and the last


def save_figures(record: dict[str, Any], folder: Path) -> None:
    """Write each figure as PNG and SVG, with its numbers as CSV."""
    plots: tuple[Callable[[dict[str, Any]], style.Drawing], ...] = (
        *(adversary_ladder, mean_ci, ci_histograms, site_l0),
    )
    for plot in plots:
        style.save(plot(record), folder, plot.__name__)


def adversary_ladder(record: dict[str, Any]) -> style.Drawing:
    """KL against the adversary's steps, with a band over restarts and marks at the rungs."""
    traces = np.array(record["adversary"]["trace_nats"])
    rungs = [row["steps"] for row in record["adversary"]["rungs"]]
    steps = np.arange(traces.shape[1])
    columns = {
        "steps": steps,
        "mean_nats": traces.mean(0),
        "lowest_nats": traces.min(0),
        "highest_nats": traces.max(0),
        "rung": np.isin(steps, rungs),
    }
    restarts = record["adversary"]["restarts"]
    spread = f"mean of {restarts} random starts, band: lowest to highest"
    subtitle = f"{spread if restarts > 1 else 'one random start'}; all sites masked"
    with style.canvas("KL under a fresh adversary", subtitle, (6.6, 4.0)) as (figure, axes):
        axes.set_yscale("log")
        style.plain_log(axes.yaxis, 1.0, 2.0, 5.0)
        axes.set_xlabel("sign steps of the adversary")
        axes.set_ylabel("KL(clean || masked) [nats per token]")
        low, high = columns["lowest_nats"], columns["highest_nats"]
        axes.fill_between(steps, low, high, color=_ADVERSARY.colour, alpha=0.2, linewidth=0)
        axes.plot(
            steps,
            columns["mean_nats"],
            color=_ADVERSARY.colour,
            marker=_ADVERSARY.marker,
            markevery=columns["rung"].nonzero()[0].tolist(),
            markersize=5,
            linewidth=1.8,
            clip_on=False,
        )
        last = float(steps[-1])
        ends = {"adversary": (last, float(columns["mean_nats"][-1]))}
        for name, (look, dashes) in _LEVELS.items():
            nats = record["kl"][name]["nats"]
            if nats > 0:
                axes.axhline(nats, color=look.colour, linestyle=dashes, linewidth=1.2, zorder=1)
                ends[name] = (last, nats)
        axes.set_xlim(0, last)
        axes.set_xticks(rungs)
        styles = {name: look for name, (look, _) in _LEVELS.items()}
        label_ends(axes, ends, styles | {"adversary": _ADVERSARY})
    return style.Drawing(figure, pd.DataFrame(columns))


# ------------------------------------------------------------------ by site


def _layer_and_kind(site: str) -> tuple[int, str]:
    """`h.3.attn.v_proj` -> (3, `attn.v_proj`); -1 for a site outside of any layer."""
    found = re.fullmatch(r"h\.(\d+)\.(.+)", site)
    return (int(found[1]), found[2]) if found else (-1, site)


def _by_kind(sites: Iterable[str]) -> dict[str, list[str]]:
    """Sites of each kind of matrix, in order of layers."""
    kinds: dict[str, list[str]] = {}
    for site in sites:
        kinds.setdefault(_layer_and_kind(site)[1], []).append(site)
    return {kind: sorted(names, key=_layer_and_kind) for kind, names in kinds.items()}


@contextmanager
def _panels(
    record: dict[str, Any], title: str, subtitle: str, xlabel: str, ylabel: str
) -> Iterator[tuple[Figure, list[tuple[Axes, dict[str, str]]]]]:
    """A panel per kind of matrix with the colours of its sites, by layer; log scale upwards.

    Colours go from dark to light: told apart in grey and by every colour vision.
    """
    kinds = _by_kind(record["sites"])
    layers = sorted({_layer_and_kind(site)[0] for site in record["sites"]})
    palette, last = matplotlib.colormaps["viridis"], max(len(layers) - 1, 1)
    # the palest end is not seen on white
    colours = {layer: to_hex(palette(0.86 * n / last)) for n, layer in enumerate(layers)}
    with style.panels(title, subtitle, len(kinds)) as (figure, panels):
        for axes, kind in zip(panels, kinds, strict=True):
            axes.set_title(kind)
            axes.set_yscale("log")
        by_site = [
            {name: colours[_layer_and_kind(name)[0]] for name in kinds[kind]} for kind in kinds
        ]
        yield figure, list(zip(panels, by_site, strict=True))
        figure.supxlabel(xlabel, fontsize=9.5)
        figure.supylabel(ylabel, fontsize=9.5)
        shown = [layer for layer in layers if layer >= 0]
        shown = shown if len(shown) <= _LEGEND else [shown[0], shown[-1]]
        handles = [
            Line2D([], [], color=colours[layer], linewidth=2, label=f"layer {layer}")
            for layer in shown
        ]
        if len(handles) > 1:
            figure.legend(handles=handles, loc="outside right center", fontsize=8.5)


def mean_ci(record: dict[str, Any]) -> style.Drawing:
    """Mean CI, sorted, on a log axis; subcomponents at exactly 0 have no place on it."""
    rows = [
        (name, place, value)
        for name, site in record["sites"].items()
        for place, value in enumerate(site["mean_ci"], 1)
    ]
    numbers = pd.DataFrame(rows, columns=["site", "place", "mean_ci"])
    threshold = record["thresholds"]["alive_mean_ci"]
    subtitle = f"mean over {record['tokens']:,} held-out tokens; dashed: alive above {threshold:g}"
    labels = "subcomponents of a site, the most important first", "mean causal importance (no unit)"
    with _panels(record, "Mean causal importance, sorted", subtitle, *labels) as (figure, panels):
        for axes, colours in panels:
            axes.set_ylim(threshold / 5, 2)
            axes.axhline(threshold, color=style.MUTED, linewidth=0.8, linestyle="--")
            for name, colour in colours.items():
                own = numbers[(numbers["site"] == name) & (numbers["mean_ci"] > 0)]
                axes.plot(own["place"], own["mean_ci"], color=colour, linewidth=1.6)
    return style.Drawing(figure, numbers)


def ci_histograms(record: dict[str, Any]) -> style.Drawing:
    """Steps for the values between, dots for those at exactly 0 and 1; shares on a log axis.

    Numbers: site, range of importances (`low` = `high`: exactly that), count, share of values.
    """
    rows = []
    for name, site in record["sites"].items():
        found = site["ci_histogram"]
        edges = np.linspace(0, 1, len(found["inside"]) + 1)
        counted = [(0.0, 0.0, found["zero"])]
        counted += list(zip(edges[:-1], edges[1:], found["inside"], strict=True))
        counted += [(1.0, 1.0, found["one"])]
        total = sum(count for _, _, count in counted)
        rows += [(name, low, high, count, count / total) for low, high, count in counted]
    numbers = pd.DataFrame(rows, columns=["site", "low", "high", "count", "share"])
    subtitle = (
        f"share of all values ({record['tokens']:,} tokens × C); dots: exactly 0 and exactly 1"
    )
    labels = "causal importance (no unit)", "share of values (no unit)"
    with _panels(record, "Causal importances", subtitle, *labels) as (figure, panels):
        for axes, colours in panels:
            for name, colour in colours.items():
                own = numbers[(numbers["site"] == name) & (numbers["count"] > 0)]
                ends, inside = own[own["low"] == own["high"]], own[own["low"] < own["high"]]
                axes.hlines(inside["share"], inside["low"], inside["high"], colour, linewidth=1.6)
                places = ends["low"] + np.where(ends["low"] > 0, _END, -_END)
                axes.plot(places, ends["share"], "o", color=colour, markersize=4)
        panels[0][0].set_xticks([0.0, 0.5, 1.0])
    return style.Drawing(figure, numbers)


def site_l0(record: dict[str, Any]) -> style.Drawing:
    """A bar per site from 0 to its CI-L0, which is written beside it; ranks and C are marked."""
    names = [name for kind in _by_kind(record["sites"]).values() for name in kind]
    rows = [(name, *(record["sites"][name][column] for column in _COLUMNS)) for name in names]
    numbers = pd.DataFrame(rows, columns=["site", *_COLUMNS])
    places = list(range(len(numbers)))[::-1]
    total = f"{record['ci_l0']:.0f} of {record['subcomponents']:,} over all sites"
    subtitle = f"mean number with importance > 0 per token; {total}"
    height = 1.4 + 0.19 * len(numbers)
    with style.canvas("CI-L0 by site", subtitle, (6.6, height)) as (figure, axes):
        axes.barh(places, numbers["ci_l0"].to_numpy(), color="#0072B2", height=0.72, zorder=2)
        words = {"color": style.INK, "fontsize": 8, "verticalalignment": "center"}
        for place, value in zip(places, numbers["ci_l0"], strict=True):
            style.note(axes, f"{value:.1f}", (value, place), (3, 0), **words)
        rank: Any = {"color": "#D55E00", "marker": "|", "markersize": 8, "markeredgewidth": 2}
        size: Any = {"color": style.MUTED, "marker": "d", "markersize": 4, "markeredgewidth": 0}
        axes.plot(numbers["rank"], places, linestyle="none", label="rank of the matrix", **rank)
        axes.plot(numbers["C"], places, linestyle="none", label="subcomponents C", **size)
        axes.set_yticks(places, numbers["site"].tolist(), fontsize=8)
        axes.set_ylim(-0.6, len(numbers) - 0.4)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 1.04 * max(numbers["C"].max(), numbers["rank"].max()))
        axes.set_xlabel("subcomponents per token")
        figure.legend(loc="outside lower left", ncols=2, fontsize=8.5)
    return style.Drawing(figure, numbers)
