"""Put the measured tables into README.md, between their markers, from the files that hold them.

    python scripts/readme_tables.py          # write
    python scripts/readme_tables.py --check  # exit code 1 where the README says something else

A table stands between `<!-- table: name -->` and `<!-- end -->`.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from pd_finetune.decomposition.folder import RECORD, SHIPPED
from pd_finetune.report.tables import verdict_table
from pd_finetune.results.verdicts import Part
from pd_finetune.tables import markdown as table_text

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED = ROOT / "pd_finetune" / "embedded"
RESULTS = ROOT / "results" / "embedded"
TOYS, DECOMPOSITIONS = ROOT / "results" / "toys", ROOT / "results" / "decomposition"
BENCHMARKS = ROOT / "results" / "benchmarks"
TOY_NAMES = {
    "tms_5_2": "TMS 5-2",
    "tms_5_2_spd": "TMS 5-2, no adversary (SPD)",
    "tms_identity": "TMS 5-2 with identity",
    "tms_40_10": "TMS 40-10",
    "residual_mlp": "residual MLP",
}
LANGUAGES = ("de", "en", "fr", "es", "it", "code")
KL_ROWS = {
    "unmasked": "KL, all masks 1, no Δ",
    "ci_masked": "KL, masks = causal importance",
    "rounded": "KL, masks = [importance > 0]",
    "stochastic": "KL, stochastic masks",
    "fresh_adversary": "KL, fresh adversary ({steps} sign steps, one source for all tokens)",
    "random": "KL, random masks",
    "zero": "KL, all masks 0",
}
COUNT_ROWS = {
    "ci_l0": "CI-L0: subcomponents with importance > 0 per token",
    "ci_l0_above_0.1": "with importance > 0.1",
    "alive": "alive: mean importance > 1e-6",
    "subcomponents": "subcomponents",
}
MATCH_COLUMNS = {
    "cosine": "cosine with best match",
    "control_cosine": "by chance",
    "start_cosine": "with own start",
    "best_correlation": "best correlation of importance",
}


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table of Markdown cells; all columns but the first are right-aligned."""
    table = pd.DataFrame(rows, columns=header)
    return table_text(table, written=header, right=header[1:]).strip()


def target() -> str:
    """Cross-entropy per language of the embedded target, beside n-gram models."""
    held_out = json.loads((EMBEDDED / "target" / "training_record.json").read_text())["held_out"]
    rows = [
        [name, *(f"{held_out[language][key]:.2f}" for language in LANGUAGES)]
        for name, key in (
            ("validation", "validation_ce_nats"),
            ("test", "test_ce_nats"),
            ("unigram (test)", "test_unigram_nats"),
            ("trigram (test)", "test_trigram_nats"),
        )
    ]
    return markdown(["nats per token", *LANGUAGES], rows)


def decomposition() -> str:
    """The evidence in the records of the embedded decompositions, as their trainings ended."""
    records = {
        name: json.loads((folder / RECORD).read_text())["evidence"]
        for name, folder in SHIPPED.items()
    }
    first: dict[str, Any] = records["embedded"]
    rows = []
    for name, words in KL_ROWS.items():
        cells = [record["kl_nats"][name] for record in records.values()]
        texts = [f"{nats:.3f}" if nats < 0.1 else f"{nats:.2f}" for nats in cells]
        rows.append([words.format(steps=first["adversary_steps"]), *texts])
    for name, words in COUNT_ROWS.items():
        rows.append([words, *(f"{record[name]:,.0f}" for record in records.values())])
    return markdown([f"check, on {first['tokens']:,} validation tokens", *records], rows)


def stability() -> str:
    """How the first embedded decomposition's subcomponents match another seed's: medians."""
    rows = []
    others = [name for name in SHIPPED if name != "embedded"]
    for number in range(1, len(others) + 1):
        path = DECOMPOSITIONS / f"stability_{number}.csv"
        frame = pd.read_csv(path, keep_default_na=False, na_values=["", "nan"])
        alone = frame["exclusive"] == "de"
        for name, part in {"all": frame, "German alone": frame[alone]}.items():
            medians = part[list(MATCH_COLUMNS)].median()
            same = (part["match_exclusive"] == "de").mean()
            rows.append(
                [
                    f"{frame['pair'].iloc[0]}; {name}",
                    f"{len(part):,}",
                    *(f"{medians[column]:.2f}" for column in MATCH_COLUMNS),
                    "–" if name == "all" else f"{same:.0%}",
                ]
            )
    header = ["number", *MATCH_COLUMNS.values(), "match fires for German alone"]
    return markdown(["subcomponents", *header], rows)


def headline() -> str:
    """Every arm at the budget where it is compared, as `pd_finetune.figures` wrote it."""
    return (RESULTS / "headline.md").read_text().strip()


def claims() -> str:
    """The verdict on every claim of the write-up, from the parts in `claims.csv`."""
    rows = pd.read_csv(RESULTS / "claims.csv").to_dict("records")
    parts = [Part(**{str(name): value for name, value in row.items()}) for row in rows]
    return table_text(verdict_table(parts), written=("verdict",)).strip()


def toys() -> str:
    """Recovery of the toys' known subcomponents: means over seeds, the least behind."""
    frame = pd.read_csv(TOYS / "summary.csv")
    rows = []
    for (toy, site), group in frame.groupby(["toy", "site"], sort=False):
        cosine, per_feature = group["mean_max_cosine"], group["important_per_feature"].mean()
        wanted, alive = group["important_per_feature_true"].iloc[0], group["alive"].mean()
        rows.append(
            [
                f"{TOY_NAMES[str(toy)]}, `{site}`",
                "–" if cosine.isna().all() else f"{cosine.mean():.3f} ({cosine.min():.3f})",
                f"{per_feature:.2f} of {'?' if pd.isna(wanted) else f'{wanted:g}'}",
                f"{alive:.1f} of {group['alive_true'].mean():g}",
            ]
        )
    counts = sorted(set(frame.groupby(["toy", "site"])["seed"].nunique()))
    seeds = " or ".join(map(str, counts))
    header = ["mean max cosine (worst seed)", "important per active feature", "alive"]
    return markdown([f"toy, matrix; {seeds} seeds", *header], rows)


def front() -> str:
    """CI-L0 and KL by minimality coefficient, as `studies.front` measured them."""
    frame = pd.read_csv(DECOMPOSITIONS / "front.csv")
    columns = ["ci_l0", "kl_ci_masked", "kl_stochastic", *(f"kl_fresh_{n}" for n in (20, 40, 80))]
    rows = [
        [f"{row['coefficient']:g}", f"{row['ci_l0']:.0f}", *(f"{row[c]:.2f}" for c in columns[1:])]
        for _, row in frame.sort_values("coefficient").iterrows()
    ]
    names = ["CI-L0", "CI-masked", "stochastic", "fresh adversary, 20 steps", "40", "80"]
    return markdown(["minimality", *names], rows)


def speed() -> str:
    """Tokens per second of a decomposition step, as `benchmarks.decompose` measured them."""
    names = {
        "reference": "plain reference",
        "paper": "`recipe=paper`, the same mathematics",
        "merged": "`recipe=merged`",
        "merged_compiled": "`recipe=merged compile=true`",
    }
    header, columns = [""], []
    for size in ("embedded", "goodfire_block"):
        found = json.loads((BENCHMARKS / f"decompose_{size}.json").read_text())[size]
        columns.append(found["variants"])
        header += [f"{size}: tokens/s", "× reference", "× floor", "peak GB"]
    rows = []
    for name, words in names.items():
        cells = [words]
        for variants in columns:
            own = variants[name]
            cells += [
                f"{own['tokens_per_second']:,.0f}",
                f"{own['times_reference']:.2f}",
                f"{own['times_floor']:.1f}",
                f"{own['peak_memory_bytes'] / 1e9:.1f}",
            ]
        rows.append(cells)
    return markdown(header, rows)


def first_table(page: Path) -> str:
    """The first table of a page that another script has written."""
    found = re.search(r"^\|.*\|\n(\|.*\|\n)+", page.read_text(), re.MULTILINE)
    assert found is not None, f"{page} holds no table"
    return found[0].rstrip("\n")


TABLES: dict[str, Callable[[], str]] = {
    "target": target,
    "decomposition": decomposition,
    "headline": headline,
    "claims": claims,
    "toys": toys,
    "front": front,
    "stability": stability,
    "speed": speed,
    "equal_quality": lambda: first_table(ROOT / "results" / "equal_quality" / "equal_quality.md"),
}


def filled(readme: str) -> str:
    """The README's text with every table as the files have it.

    Raises:
        KeyError: a marker names no table.
    """
    pattern = re.compile(r"(<!-- table: (\w+) -->\n).*?(\n<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], readme)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    options = parser.parse_args()
    path = ROOT / "README.md"
    before = path.read_text()
    after = filled(before)
    if options.check and after != before:
        sys.exit("README.md differs from the results: run python scripts/readme_tables.py")
    if not options.check:
        path.write_text(after)


if __name__ == "__main__":
    main()
