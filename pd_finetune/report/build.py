"""From a folder of runs, and what lies beside it, to figures, tables and pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from rich.console import Console

from pd_finetune.errors import UserError
from pd_finetune.files import make_folder, write_text
from pd_finetune.plots import budgets, cost, firing, off_target, scalars, tokens, tradeoff, tuning
from pd_finetune.plots.style import Drawing, save
from pd_finetune.records.record import read_records
from pd_finetune.report.config import FiguresConfig
from pd_finetune.report.page import Findings, page, page_of_budgets
from pd_finetune.report.tables import headline_table
from pd_finetune.results import published_costs
from pd_finetune.results.costs import costs, folders_of
from pd_finetune.results.firing import fires_on, harvest_folder
from pd_finetune.results.frame import read_frame, runs_frame
from pd_finetune.results.rollouts import FILE, read_rollouts
from pd_finetune.results.tuning import read_trials
from pd_finetune.results.variants import VARIANTS, Variant, check_distinct, variant
from pd_finetune.tables import latex, markdown, print_table, write_csv


def build(config: FiguresConfig) -> Path:
    """See `pd_finetune.figures.run`."""
    console, out = Console(), Path(config.out).expanduser()
    frame = _frame(_path(config.runs), console)
    trials = read_trials(_path(config.tuning) if config.tuning else out / "tuning")
    texts = _path(config.rollouts) if config.rollouts else out / FILE
    variants = _variants(config, frame, out, console)
    findings = Findings(
        frame,
        fires_of(frame, config.harvest),
        read_rollouts(texts) if texts.is_file() or config.rollouts else None,
        costs_of(frame, trials, published=True),
        list(variants.values()),
    )
    absent = {
        "tuning trials (tuning=<folder>)": trials.empty,
        "harvest (harvest=<folder>)": findings.fires is None,
        "rollouts (python -m pd_finetune.rollouts)": findings.rollouts is None,
    }
    if any(absent.values()):
        names = ", ".join(name for name, missing in absent.items() if missing)
        console.print(f"not found, left out: {names}", soft_wrap=True, markup=False)
    pages = {one.name: page(of_variant(one, trials)) for one in variants.values()}
    make_folder(out)
    findings.drawn = _draw(_drawings(findings, trials), out)
    headline = headline_table(frame, findings.summary)
    _write_tables(findings, headline, out)
    for place, one in variants.items():
        table = make_folder(out / VARIANTS) / f"{one.name}.csv"
        if place.resolve() != table.resolve():
            write_csv(one.whole, table)
        write_text(table.with_suffix(".md"), pages[one.name])
    write_text(out / "README.md", page(findings))
    print_table(
        headline.iloc[:, [0, 2, 3, 4]], "where arms are compared: medians [95 %], nats", console
    )
    console.print(f"figures: {', '.join(findings.drawn)} (.png, .svg, .csv)", soft_wrap=True)
    console.print(f"page: {out / 'README.md'}", soft_wrap=True, markup=False)
    return out


# ------------------------------------------------------------------ what goes in


def _path(given: str) -> Path:
    return Path(given).expanduser()


def _frame(runs: Path, console: Console) -> pd.DataFrame:
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


def _variants(
    config: FiguresConfig, frame: pd.DataFrame, out: Path, console: Console
) -> dict[Path, Variant]:
    """Runs that differ from the main ones in languages or decomposition, in order of their names.

    By default all that stand in `<out>/variants`.
    """
    places = sorted((out / VARIANTS).glob("*.csv"))
    if config.variants is not None:
        places = [_path(place) for place in config.variants]
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


def of_variant(one: Variant, trials: pd.DataFrame) -> Findings:
    """What the page of a variant shows."""
    return Findings(one.frame, fires_of(one.frame), costs=costs_of(one.frame, trials), variant=one)


def fires_of(frame: pd.DataFrame, given: str | None = None) -> pd.DataFrame | None:
    """What the selected subcomponents fire on; None without a harvest."""
    folder = _path(given) if given else harvest_folder(frame)
    return fires_on(frame, folder) if folder else None


def costs_of(
    frame: pd.DataFrame, trials: pd.DataFrame, published: bool = False
) -> pd.DataFrame | None:
    """All costs, with those of the published model on demand; None without the runs' models."""
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
    frame, summary, fires = findings.frame, findings.summary, findings.fires
    spent, even = findings.costs, findings.break_even
    return {
        "to_chance": lambda: budgets.draw(frame, summary, "to_chance_nats"),
        "damage": lambda: budgets.draw(frame, summary, "protected_damage_nats"),
        "other_damage": lambda: budgets.draw(frame, summary, "off_target_damage_nats"),
        "tradeoff": lambda: tradeoff.draw(frame, summary),
        "off_target": lambda: off_target.draw(frame, summary),
        "tokens_to_target": lambda: tokens.draw(frame),
        "scalars": lambda: scalars.draw(frame),
        "scalars_several": lambda: scalars.draw_several(frame),
        "firing": lambda: None if fires is None else firing.draw(fires),
        "tuning": lambda: tuning.draw(frame, trials),
        "cost": lambda: None if spent is None or even is None else cost.draw(even, spent),
    }


def _draw(drawings: dict[str, Callable[[], Drawing | None]], out: Path) -> list[str]:
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


def _write_tables(findings: Findings, headline: pd.DataFrame, out: Path) -> None:
    tables = {
        "runs": findings.frame,
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
    write_text(out / "headline.md", markdown(headline))
    write_text(out / "headline.tex", latex(headline))
    write_text(out / "table.md", page_of_budgets(findings))
