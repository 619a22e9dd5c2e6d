"""Figures, tables and the page of results from finished runs: `python -m pd_finetune.figures`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from pd_finetune.errors import UserError
from pd_finetune.main import stage_main
from pd_finetune.schema import Checked

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from pd_finetune.plots.style import Drawing
    from pd_finetune.records.record import RunRecord
    from pd_finetune.report.page import Costs
    from pd_finetune.results.variants import Variant


@dataclass
class FiguresConfig(Checked):
    """Figures and tables from a folder of run directories: `python -m pd_finetune.figures`.

    What is null is looked for: the harvest beside the runs' decomposition, tuning trials in
    `<out>/tuning`, rollouts in `<out>/rollouts.jsonl`, variants in `<out>/variants`.
    """

    runs: str = MISSING  # or a runs.csv that this stage wrote
    out: str = MISSING
    harvest: str | None = MISSING
    tuning: str | None = MISSING
    rollouts: str | None = MISSING
    # runs with another target or other protected languages: folders of run directories, or tables
    variants: list[str] | None = MISSING


def run(config: FiguresConfig) -> Path:
    """Read all finished runs, write figures with their numbers, tables and the page.

    Raises:
        UserError: there are no finished runs, they do not belong in one table, or what was named
            beside them (harvest, tuning, rollouts) does not fit.
    """
    from rich.console import Console

    from pd_finetune.files import make_folder, write_text
    from pd_finetune.plots import tables
    from pd_finetune.report.headline import headline_table, latex
    from pd_finetune.report.page import Findings, page
    from pd_finetune.results.claims import answers
    from pd_finetune.results.evidence import Evidence
    from pd_finetune.results.summary import summarise, write_csv
    from pd_finetune.results.variants import VARIANTS

    console = Console()
    frame = _frame(Path(config.runs).expanduser(), console)
    out = Path(config.out).expanduser()
    trials, fires, rollouts = _beside(config, frame, out, console)
    costs = _costs(frame, trials)
    variants = _variants(config, frame, out, console)
    make_folder(out)
    summary = summarise(frame)
    parts = answers(Evidence(frame, fires, rollouts))
    drawn = _draw(_drawings(frame, summary, trials, fires, costs), out)
    write_csv(frame, out / "runs.csv")
    write_csv(summary, out / "summary.csv")
    _write_tables(out, [asdict(part) for part in parts], costs)
    for old in (out / VARIANTS).glob("*.csv"):  # of an earlier call: would come back with the next
        if old.stem not in [variant.name for variant in variants]:
            old.unlink()
    for variant in variants:
        write_csv(variant.frame, make_folder(out / VARIANTS) / f"{variant.name}.csv")
    headline = headline_table(frame, summary)
    write_text(out / "headline.md", tables.markdown(headline))
    write_text(out / "headline.tex", latex(headline))
    write_text(out / "table.md", tables.page(frame, summary))
    findings = Findings(frame, summary, parts, drawn, rollouts, costs, variants)
    write_text(out / "README.md", page(findings))
    tables.print_headline(frame, summary, console)
    console.print(f"figures: {', '.join(drawn)} (.png, .svg, .csv)", soft_wrap=True)
    console.print(f"page: {out / 'README.md'}", soft_wrap=True, markup=False)
    return out


# ------------------------------------------------------------------ what goes in


def _frame(runs: Path, console: Console) -> pd.DataFrame:
    from pd_finetune.results.summary import read_frame, runs_frame

    if runs.suffix == ".csv":
        return read_frame(runs)
    records = _finished(runs, console)
    frame = runs_frame(records)
    if len(frame) < len(records):
        console.print(f"{len(records) - len(frame)} runs repeat another one: counted once")
    return frame


def _finished(folder: Path, console: Console) -> list[RunRecord]:
    from pd_finetune.records.record import read_records

    def warn(error: UserError) -> None:
        console.print(f"left out: {error}", soft_wrap=True, markup=False)

    records = read_records(folder, on_broken=warn)
    begun = sum(path.is_file() for path in folder.glob("*/config.yaml")) - len(records)
    if not records:
        left = f" ({begun} failed, half-finished or damaged)" if begun > 0 else ""
        where = "" if folder == Path("runs") else f" paths.runs={folder}"
        raise UserError(
            f"no finished runs in '{folder}'{left}: make some with python -m pd_finetune.run -m "
            f"experiment=write_up{where}, or set runs=... to a folder of run directories"
        )
    if begun > 0:
        console.print(f"{begun} failed, half-finished or damaged runs are left out")
    return records


def _beside(
    config: FiguresConfig, frame: pd.DataFrame, out: Path, console: Console
) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame | None]:
    """Tuning trials, what the selected subcomponents fire on, rollouts; None where absent."""
    from pd_finetune.results.firing import fires_on, harvest_folder
    from pd_finetune.results.rollouts import FILE, read_rollouts
    from pd_finetune.results.tuning import read_trials

    trials = read_trials(Path(config.tuning).expanduser() if config.tuning else out / "tuning")
    harvest = Path(config.harvest).expanduser() if config.harvest else harvest_folder(frame)
    texts = Path(config.rollouts).expanduser() if config.rollouts else out / FILE
    absent = []
    if trials.empty:
        absent.append("tuning trials (tuning=<folder>)")
    if harvest is None:
        absent.append("harvest (harvest=<folder>)")
    if not texts.is_file() and not config.rollouts:
        absent.append("rollouts (python -m pd_finetune.rollouts)")
    if absent:
        console.print(f"not found, left out: {', '.join(absent)}", soft_wrap=True, markup=False)
    fires = fires_on(frame, harvest) if harvest else None
    return trials, fires, read_rollouts(texts) if texts.is_file() or config.rollouts else None


def _variants(
    config: FiguresConfig, frame: pd.DataFrame, out: Path, console: Console
) -> list[Variant]:
    """By target language, each of runs that differ from the main ones in that, or in protection."""
    from pd_finetune.results.variants import VARIANTS, check_distinct, variant

    places = sorted((out / VARIANTS).glob("*.csv"))
    if config.variants is not None:
        places = [Path(place).expanduser() for place in config.variants]
    found = []
    for place in places:
        try:
            if not place.exists():
                raise UserError("there is no such folder or table")
            found.append(variant(_frame(place, console), frame))
        except UserError as error:
            raise UserError(
                f"variants: '{place}': {error} (variants=[] draws the page without any)"
            ) from None
    check_distinct(found)
    return sorted(found, key=lambda variant: variant.name)


def _costs(frame: pd.DataFrame, trials: pd.DataFrame) -> Costs | None:
    from pd_finetune.report.page import Costs
    from pd_finetune.results.break_even import break_even
    from pd_finetune.results.costs import edits, folders_of, preparation, sizes_of

    folders = folders_of(frame)
    if folders is None:
        return None
    prepared = preparation(frame, *folders)
    spent = edits(frame, trials, sizes_of(*folders))
    return Costs(prepared, spent, break_even(frame, prepared, spent))


# ------------------------------------------------------------------ what comes out


def _drawings(
    frame: pd.DataFrame,
    summary: pd.DataFrame,
    trials: pd.DataFrame,
    fires: pd.DataFrame | None,
    costs: Costs | None,
) -> dict[str, Callable[[], Drawing | None]]:
    """Every figure by the name of its files."""
    from pd_finetune.plots import (
        appendix,
        cost,
        damage,
        firing,
        off_target,
        scalars,
        to_chance,
        tokens,
        tradeoff,
        tuning,
    )

    return {
        "to_chance": lambda: to_chance.draw(frame, summary),
        "damage": lambda: damage.draw(frame, summary),
        "tradeoff": lambda: tradeoff.draw(frame, summary),
        "off_target": lambda: off_target.draw(frame, summary),
        "tokens_to_target": lambda: tokens.draw(frame),
        "appendix": lambda: appendix.draw(frame, summary),
        "scalars": lambda: scalars.draw(frame),
        "scalars_several": lambda: scalars.draw_several(frame),
        "firing": lambda: None if fires is None else firing.draw(fires),
        "tuning": lambda: tuning.draw(frame, trials),
        "cost": lambda: None if costs is None else cost.draw(frame, costs.break_even),
    }


def _draw(drawings: dict[str, Callable[[], Drawing | None]], out: Path) -> list[str]:
    from pd_finetune.plots.style import save

    drawn = []
    for name, draw in drawings.items():
        drawing = draw()
        if drawing is not None:
            save(drawing, out, name)
            drawn.append(name)
        else:  # an older one would be taken for that of these runs
            for kind in ("png", "svg", "csv"):
                (out / f"{name}.{kind}").unlink(missing_ok=True)
    return drawn


def _write_tables(out: Path, parts: list[dict[str, object]], costs: Costs | None) -> None:
    import pandas as pd

    from pd_finetune.results.summary import write_csv

    write_csv(pd.DataFrame(parts), out / "claims.csv")
    made = None if costs is None else (costs.prepared, costs.edits, costs.break_even)
    for place, name in enumerate(("costs.csv", "edits.csv", "break_even.csv")):
        if made is None:
            (out / name).unlink(missing_ok=True)
        else:
            write_csv(made[place], out / name)


if __name__ == "__main__":
    stage_main("figures", FiguresConfig, run)
