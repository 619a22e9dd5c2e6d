"""The evidence record as tables: Markdown, and the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# row of the record -> what is masked, and what a good decomposition shows
CHECKS = {
    "unmasked": ("all masks 1, no Δ", "about 0: faithful"),
    "ci_masked": ("masks = causal importance", "low; never trained on"),
    "rounded": ("masks = [importance > 0]", "low; never trained on"),
    "stochastic": ("random between importance and 1", "low"),
    "random": ("random masks", "a ceiling"),
    "zero": ("all masks 0", "the ceiling"),
}
FIGURES = {
    "adversary_ladder": "KL against the adversary's steps",
    "mean_ci": "Mean causal importance of every subcomponent, by site",
    "ci_histograms": "Causal importances of all tokens, by site",
    "site_l0": "CI-L0 of each site beside the rank of its matrix",
}


def _number(value: float | None) -> str:
    """Four decimals; very small values as a power of ten; absent ones as a dash."""
    if value is None:
        return "–"
    return f"{value:.1e}" if 0 < abs(value) < 5e-5 else f"{value:.4f}"


def _share(value: float | None) -> str:
    """A share of the zero-masked ceiling, in per cent."""
    return "–" if value is None else f"{100 * value:.2f} %"


def totals(record: dict[str, Any]) -> pd.DataFrame:
    """KL with all sites masked: nats, spread, share of the zero-masked KL, what is good."""
    import pandas as pd

    rows = []
    for name, (masks, good) in CHECKS.items():
        row = record["kl"][name]
        spread = f"± {_number(row['standard_error_nats'])}"
        rows.append((masks, row["nats"], spread, row["of_zero_masked"], good))
    for row in record["adversary"]["rungs"]:
        spread = f"{row['lowest_nats']:.2f} to {row['highest_nats']:.2f}"
        name = f"fresh adversary, {row['steps']} steps"
        good = "low, and level over steps" if row["steps"] else "its random start"
        rows.append((name, row["nats"], spread, row["of_zero_masked"], good))
    cells = [(name, _number(nats), sd, _share(share), good) for name, nats, sd, share, good in rows]
    columns = ["KL(clean ‖ masked)", "nats per token", "spread", "of ceiling", "good is"]
    return pd.DataFrame(cells, columns=columns)


def counts(record: dict[str, Any]) -> pd.DataFrame:
    """CI-L0, alive subcomponents and faithfulness, over all sites."""
    import pandas as pd

    ranks = sum(site["rank"] for site in record["sites"].values())
    alive = record["thresholds"]["alive_mean_ci"]
    cells = [
        ("CI-L0 (importance > 0)", f"{record['ci_l0']:.1f}"),
        ("CI-L0 (importance > 0.1)", f"{record['ci_l0_above_0.1']:.1f}"),
        ("subcomponents C", f"{record['subcomponents']:,}"),
        ("ranks of the matrices, summed", f"{ranks:,}"),
        (f"alive (mean importance > {alive:g})", f"{record['alive']:,}"),
        ("‖Δ‖² / ‖W‖², mean over sites", f"{record['faithfulness_relative']:.2e}"),
    ]
    return pd.DataFrame(cells, columns=["over all sites", "value"])


def by_site(record: dict[str, Any]) -> pd.DataFrame:
    """One row per site: counts and, where it was masked alone, KL in nats."""
    import pandas as pd

    rows = []
    for name, site in record["sites"].items():
        row = {"site": name, "C": str(site["C"]), "rank": str(site["rank"])}
        row |= {"alive": str(site["alive"]), "L0": f"{site['ci_l0']:.2f}"}
        row["L0 > 0.1"] = f"{site['ci_l0_above_0.1']:.2f}"
        row["top CI"] = f"{site['highest_mean_ci']:.2f}"
        if "kl" in site:  # it was masked alone
            row |= {n.replace("_", "-"): _number(site["kl"][n]["nats"]) for n in CHECKS}
            steps = site["adversary"]["steps"]
            row[f"adversary, {steps}"] = _number(site["adversary"]["nats"])
        rows.append(row)
    return pd.DataFrame(rows)


def _markdown(table: pd.DataFrame, text_columns: tuple[str, ...]) -> str:
    rules = ["---" if name in text_columns else "---:" for name in table.columns]
    lines = [list(map(str, table.columns)), rules, *table.to_numpy().tolist()]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def text_line(record: dict[str, Any]) -> str:
    """What the evidence was measured on."""
    if "text" not in record:
        return f"{record['tokens']:,} held-out tokens"
    text = record["text"]
    windows = ", ".join(f"{language} {count}" for language, count in text["windows"].items())
    return (
        f"{record['tokens']:,} tokens of {text['split']} text: windows of "
        f"{text['window_tokens']} tokens, by language {windows}"
    )


def page(record: dict[str, Any]) -> str:
    """The tables and pictures in Markdown, with what they are made of and what they allow."""
    first, adversary = totals(record), record["settings"]["adversary"]
    pictures = "".join(f"\n![{text}]({name}.png)\n" for name, text in FIGURES.items())
    return (
        f"# Evidence for decomposition {record['decomposition_hash'][:12]}\n\n"
        f"On {text_line(record)}. Target {record['target_hash'][:12]}.\n\n"
        f"{_markdown(first, (first.columns[0], 'good is'))}\n"
        "Spread: standard error over windows; for the adversary lowest to highest of "
        f"{adversary['restarts']} random starts. Adversary: one source per subcomponent and per Δ, "
        f"the same at all positions of all windows, sign steps of {adversary['step']:g}; the rungs "
        "are stops of the same climbs. Δ is dropped but in the stochastic and adversarial rows.\n\n"
        f"{_markdown(counts(record), ('over all sites',))}\n"
        "A subcomponent that matters less often than once in these tokens can count as dead.\n"
        f"{pictures}\n"
        "## Site by site\n\n"
        "KL in nats per token with that site alone masked, the others as in the target; shares "
        "of the site's own zero-masked KL are in quality.json.\n\n"
        f"{_markdown(by_site(record), ('site',))}\n"
        "## What this allows\n\n"
        "That subcomponents are causally important for this behaviour, on this text, under "
        "maskings up to this adversary. Not that they are the mechanisms, nor how many there are.\n"
    )


def print_record(record: dict[str, Any]) -> None:
    """The totals as terminal tables, then a few columns of each site."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    console.print(f"evidence on {text_line(record)}", markup=False)
    left_out = ["good is", "L0 > 0.1", "top CI", "unmasked", "rounded", "stochastic", "random"]
    for table in (totals(record), counts(record), by_site(record)):
        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        kept = table.drop(columns=left_out, errors="ignore")
        for place, name in enumerate(kept.columns):
            shown.add_column(escape(str(name)), justify="right" if place else "left", no_wrap=True)
        for line in kept.to_numpy().tolist():
            shown.add_row(*(escape(str(cell)) for cell in line))
        console.print(shown)
