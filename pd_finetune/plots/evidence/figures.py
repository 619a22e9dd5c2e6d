"""All figures of an evidence record."""

from pathlib import Path
from typing import Any

from pd_finetune.plots import style
from pd_finetune.plots.evidence import adversary_ladder, ci_histograms, mean_ci, site_l0


def save_figures(record: dict[str, Any], folder: Path) -> None:
    """Write each figure as PNG and SVG, with its numbers as CSV."""
    for plot in (adversary_ladder, mean_ci, ci_histograms, site_l0):
        style.save(plot.draw(record), folder, plot.__name__.rsplit(".", 1)[-1])
