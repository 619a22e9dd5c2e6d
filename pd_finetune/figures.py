"""Figures, tables and the page of results from finished runs: `python -m pd_finetune.figures`."""

from __future__ import annotations

from pathlib import Path

from pd_finetune.main import stage_main
from pd_finetune.report.config import FiguresConfig


def run(config: FiguresConfig) -> Path:
    """Read all finished runs, write figures with their numbers, tables and the pages.

    Of `<out>/variants` only what `config.variants` names is written anew, and nothing deleted.

    Raises:
        UserError: there are no finished runs, they do not belong in one table, or what was named
            beside them (harvest, tuning, rollouts, variants) does not fit.
    """
    from pd_finetune.report.build import build

    return build(config)


if __name__ == "__main__":
    stage_main("figures", FiguresConfig, run)
