"""Figures, tables and the page of results from finished runs: `python -m pd_finetune.figures`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pd_finetune.cli import stage_main
from pd_finetune.errors import UserError
from pd_finetune.stage_configs import FiguresConfig

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from pd_finetune.plots.style import Drawing
    from pd_finetune.report.page import Findings
    from pd_finetune.results.variants import Variant


def run(config: FiguresConfig) -> Path:
    """Read all finished runs, write figures with their numbers, tables and the pages.

    Of `<out>/variants` only what `config.variants` names is written anew, and nothing deleted.

    Raises:
        UserError: there are no finished runs, they do not belong in one table, or what was named
            beside them (harvest, tuning, rollouts, variants) does not fit.
    """
    from rich.console import Console

    from pd_finetune.files import make_folder, write_text
    from pd_finetune.report.page import Findings, page
    from pd_finetune.results.table import print_medians
    from pd_finetune.results.variants import VARIANTS
    from pd_finetune.tables import write_csv

    console = Console()
    out = Path(config.out).expanduser()
    frame = _frame(Path(config.runs).expanduser(), console)
    trials, fires, rollouts = _beside(config, frame, out, console)
    variants = _variants(config, frame, out, console)
    costs = _costs(frame, trials, published=True)
    findings = Findings(frame, fires, rollouts, costs, list(variants.values()))
    of_variants = [
        Findings(one.frame, _fires(one.frame), costs=_costs(one.frame, trials), variant=one)
        for one in variants.values()
    ]
    make_folder(out)
    findings.drawn = _draw(_drawings(findings, trials), out)
    _write_tables(findings, out)
    for place, one in variants.items():
        folder = make_folder(out / VARIANTS)
        if place.resolve() != (folder / f"{one.name}.csv").resolve():
            write_csv(one.whole, folder / f"{one.name}.csv")
    for of_variant in of_variants:
        assert of_variant.variant is not None
        write_text(out / VARIANTS / f"{of_variant.variant.name}.md", page(of_variant))
    write_text(out / "README.md", page(findings))
    print_medians(frame, findings.summary, console)
    console.print(f"figures: {', '.join(findings.drawn)} (.png, .svg, .csv)", soft_wrap=True)
    console.print(f"page: {out / 'README.md'}", soft_wrap=True, markup=False)
    return out


# ------------------------------------------------------------------ what goes in


def _frame(runs: Path, console: Console) -> pd.DataFrame:
    from pd_finetune.results.frame import read_frame, runs_frame
    from pd_finetune.results.record import read_records

    if runs.suffix == ".csv":
        return read_frame(runs)

    def warn(error: UserError) -> None:
        console.print(f"left out: {error}", soft_wrap=True, markup=False)

    records = read_records(runs, on_broken=warn)
    begun = sum(path.is_file() for path in runs.glob("*/config.yaml")) - len(records)
    if not records:
        left = f" ({begun} failed, half-finished or damaged)" if begun > 0 else ""
        where = "" if runs == Path("runs") else f" paths.runs={runs}"
        raise UserError(
            f"no finished runs in '{runs}'{left}: make some with python -m pd_finetune.run -m "
            f"experiment=write_up{where}, or set runs=... to a folder of run directories"
        )
    if begun > 0:
        console.print(f"{begun} failed, half-finished or damaged runs are left out")
    frame = runs_frame(records)
    if len(frame) < len(records):
        console.print(f"{len(records) - len(frame)} runs repeat another one: counted once")
    return frame


def _beside(
    config: FiguresConfig, frame: pd.DataFrame, out: Path, console: Console
) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame | None]:
    """Tuning trials, what the selected subcomponents fire on, rollouts; None where absent."""
    from pd_finetune.results.rollouts import FILE, read_rollouts
    from pd_finetune.results.tuning import read_trials

    trials = read_trials(Path(config.tuning).expanduser() if config.tuning else out / "tuning")
    fires = _fires(frame, config.harvest)
    texts = Path(config.rollouts).expanduser() if config.rollouts else out / FILE
    rollouts = read_rollouts(texts) if texts.is_file() or config.rollouts else None
    absent = {
        "tuning trials (tuning=<folder>)": trials.empty,
        "harvest (harvest=<folder>)": fires is None,
        "rollouts (python -m pd_finetune.rollouts)": rollouts is None,
    }
    if any(absent.values()):
        names = ", ".join(name for name, missing in absent.items() if missing)
        console.print(f"not found, left out: {names}", soft_wrap=True, markup=False)
    return trials, fires, rollouts


def _fires(frame: pd.DataFrame, given: str | None = None) -> pd.DataFrame | None:
    from pd_finetune.results.firing import fires_on, harvest_folder

    folder = Path(given).expanduser() if given else harvest_folder(frame)
    return fires_on(frame, folder) if folder else None


def _variants(
    config: FiguresConfig, frame: pd.DataFrame, out: Path, console: Console
) -> dict[Path, Variant]:
    """Runs that differ from the main ones in languages or decomposition, in order of their names.

    By default all that stand in `<out>/variants`.
    """
    from pd_finetune.results.variants import VARIANTS, check_distinct, variant

    places = sorted((out / VARIANTS).glob("*.csv"))
    if config.variants is not None:
        places = [Path(place).expanduser() for place in config.variants]
    found = {}
    for place in places:
        try:
            if not place.exists():
                raise UserError("there is no such folder or table")
            found[place] = variant(_frame(place, console), frame)
        except UserError as error:
            raise UserError(
                f"variants: '{place}': {error} (variants=[] draws the page without any)"
            ) from None
    check_distinct(list(found.values()))
    return dict(sorted(found.items(), key=lambda item: item[1].name))


def _costs(
    frame: pd.DataFrame, trials: pd.DataFrame, published: bool = False
) -> pd.DataFrame | None:
    import pandas as pd

    from pd_finetune.results import published_costs
    from pd_finetune.results.costs import costs, folders_of

    folders = folders_of(frame)
    if folders is None:
        return None
    found = costs(frame, trials, *folders)
    if not published:
        return found
    settings = frame[["steps", "protected_tokens_per_step"]].median()
    return pd.concat([found, published_costs.costs(*settings)], ignore_index=True)


# ------------------------------------------------------------------ what comes out


def _drawings(findings: Findings, trials: pd.DataFrame) -> dict[str, Callable[[], Drawing | None]]:
    """Every figure by the name of its files."""
    from pd_finetune.plots import budgets, cost, firing, off_target, scalars, tokens, tradeoff
    from pd_finetune.plots import tuning as trials_plot

    frame, summary, fires = findings.frame, findings.summary, findings.fires
    costs, even = findings.costs, findings.break_even
    return {
        "to_chance": lambda: budgets.to_chance(frame, summary),
        "damage": lambda: budgets.damage(frame, summary),
        "tradeoff": lambda: tradeoff.draw(frame, summary),
        "off_target": lambda: off_target.draw(frame, summary),
        "tokens_to_target": lambda: tokens.draw(frame),
        "appendix": lambda: budgets.appendix(frame, summary),
        "scalars": lambda: scalars.draw(frame),
        "scalars_several": lambda: scalars.draw_several(frame),
        "firing": lambda: None if fires is None else firing.draw(fires),
        "tuning": lambda: trials_plot.draw(frame, trials),
        "cost": lambda: None if costs is None or even is None else cost.draw(even, costs),
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


def _write_tables(findings: Findings, out: Path) -> None:
    from dataclasses import asdict

    import pandas as pd

    from pd_finetune.files import write_text
    from pd_finetune.report.page import page_of_budgets
    from pd_finetune.report.tables import headline_table
    from pd_finetune.tables import latex, markdown, write_csv

    frame = findings.frame
    tables = {
        "runs": frame,
        "summary": findings.summary,
        "claims": pd.DataFrame([asdict(part) for part in findings.parts]),
        "costs": findings.costs,
        "break_even": findings.break_even,
    }
    for name, table in tables.items():
        if table is None:
            (out / f"{name}.csv").unlink(missing_ok=True)
        else:
            write_csv(table, out / f"{name}.csv")
    headline = headline_table(frame, findings.summary)
    write_text(out / "headline.md", markdown(headline))
    write_text(out / "headline.tex", latex(headline))
    write_text(out / "table.md", page_of_budgets(findings))


if __name__ == "__main__":
    stage_main("figures", run)
