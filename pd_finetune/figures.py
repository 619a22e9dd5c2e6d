"""Figures and tables from a folder of finished runs: `python -m pd_finetune.figures`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pd_finetune.cli import stage_main
from pd_finetune.errors import UserError
from pd_finetune.stage_configs import FiguresConfig

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from pd_finetune.results.record import RunRecord


def run(config: FiguresConfig) -> Path:
    """Read all finished runs, write figures with their numbers and tables, print the headline.

    Raises:
        UserError: there are no finished runs, or they do not belong in one table.
    """
    from rich.console import Console

    from pd_finetune.files import make_folder, write_text
    from pd_finetune.plots.tables import page, print_headline
    from pd_finetune.results.summary import runs_frame, summarise, tokens_to_target, write_csv

    console = Console()
    records = _finished(Path(config.runs).expanduser(), console)
    frame = runs_frame(records)
    out = make_folder(Path(config.out).expanduser())
    write_csv(frame, out / "runs.csv")
    summary = summarise(frame)
    write_csv(summary, out / "summary.csv")
    write_csv(tokens_to_target(frame), out / "tokens_to_target.csv")
    write_text(out / "table.md", page(frame, summary))
    drawn = _draw(frame, summary, out)
    if len(frame) < len(records):
        console.print(f"{len(records) - len(frame)} runs repeat another one: counted once")
    print_headline(frame, summary, console)
    console.print(f"figures: {', '.join(drawn)} (.png, .svg, .csv)", soft_wrap=True)
    console.print(f"table: {out / 'table.md'}", soft_wrap=True, markup=False)
    return out


def _finished(folder: Path, console: Console) -> list[RunRecord]:
    from pd_finetune.results.record import read_records

    records = read_records(folder)
    begun = sum(path.is_file() for path in folder.glob("*/config.yaml")) - len(records)
    if not records:
        left = f" ({begun} failed or half-finished)" if begun > 0 else ""
        where = "" if folder == Path("runs") else f" paths.runs={folder}"
        raise UserError(
            f"no finished runs in '{folder}'{left}: make some with python -m pd_finetune.run -m "
            f"experiment=write_up{where}, or set runs=... to a folder of run directories"
        )
    if begun > 0:
        console.print(f"{begun} failed or half-finished runs are left out")
    return records


def _draw(frame: pd.DataFrame, summary: pd.DataFrame, out: Path) -> list[str]:
    from pd_finetune.plots import damage, off_target, scalars, to_chance, tradeoff
    from pd_finetune.plots.style import save

    drawings = {
        "to_chance": to_chance.draw(frame, summary),
        "damage": damage.draw(frame, summary),
        "tradeoff": tradeoff.draw(frame, summary),
        "off_target": off_target.draw(frame, summary),
        "scalars": scalars.draw(frame),
    }
    drawn = []
    for name, drawing in drawings.items():
        if drawing is not None:
            save(drawing, out, name)
            drawn.append(name)
        else:  # an older one would be taken for that of these runs
            for kind in ("png", "svg", "csv"):
                (out / f"{name}.{kind}").unlink(missing_ok=True)
    return drawn


if __name__ == "__main__":
    stage_main("figures", run)
