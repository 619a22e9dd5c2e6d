"""Ground truth first: train, decompose and score every toy over seeds.

    python scripts/toys.py --work runs/toys --out results/toys [key=value ...]

Every toy by three seeds, and TMS 5-2 without the adversary (SPD). What is finished with the same
settings is not done again, a killed one goes on from its checkpoint, and a failure is named at the
end while the others go on. Writes <out>/summary.csv (a row per run and site), <out>/table.md
(means over seeds) and the pictures of the first seed. Words at the end reach every decomposition.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from decomposed import decomposed, told_apart

from pd_finetune.errors import TrainingError, UserError
from pd_finetune.files import make_folder, write_text
from pd_finetune.results.summary import write_csv

VARIANTS = {
    "tms_5_2": ["experiment=toy_tms_5_2"],
    "tms_5_2_spd": ["experiment=toy_tms_5_2", "recipe.adversary=false"],
    "tms_identity": ["experiment=toy_tms_identity"],
    "tms_40_10": ["experiment=toy_tms_40_10"],
    "residual_mlp": ["experiment=toy_residual_mlp"],
}
# what makes two runs the same
SETTINGS = ("toy", "recipe", "ci_function", "quality", "initial", "seed")
MEASURES = {
    "mean_max_cosine": "mean max cosine",
    "mean_max_cosine_start": "the same at the start",
    "mean_max_cosine_columns": "columns alone",
    "mean_norm_ratio": "norm ratio",
    "important_per_feature": "important per feature",
    "important_per_feature_true": "true",
    "alive": "alive",
    "alive_true": "true",
    "exact_features": "exact features",
    "mse_ci_masked": "MSE CI-masked",
    "mse_fresh_adversary": "MSE fresh adversary",
    "mse_zero": "MSE zero-masked",
}


def rows_of(variant: str, seed: int, record: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per site."""
    mse = {f"mse_{name}": value for name, value in record["evidence"]["mse"].items()}
    common = {"toy_mse": record["toy"]["mse"], "seconds": record["seconds"], **mse}
    return [
        {
            "toy": variant,
            "site": site,
            "seed": seed,
            **found,
            "mean_max_cosine_start": record["truth_at_start"][site].get("mean_max_cosine"),
            **common,
        }
        for site, found in record["truth"].items()
    ]


def page(frame: pd.DataFrame) -> str:
    """A row per toy and site: means over seeds, the range behind what differs between them."""
    lines = [["toy", "site", "seeds", *MEASURES.values()]]
    lines.append(["---", "---", *["---:"] * (len(MEASURES) + 1)])
    for (toy, site), group in frame.groupby(["toy", "site"], sort=False):
        cells = [_cell(group[name].dropna(), name) for name in MEASURES]
        lines.append([str(toy), str(site), str(len(group)), *cells])
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return (
        "# Toys with a known answer\n\n"
        "Mean over seeds [least, greatest]; each seed trains its own toy. *Mean max cosine*: over "
        "the true rank-1\nmatrices, the highest Frobenius cosine with an alive subcomponent (mean "
        "CI above 1e-6): reading and writing\ndirection must both be right. *Columns alone*: the "
        "side of W's columns only, as in SPD. *Norm ratio*: of the\nbest match to the true "
        "matrix. *Important per feature*: subcomponents with CI above 0.1 while one feature\n"
        "alone is active, at 0.75. *Exact features*: share of features whose only important "
        "subcomponent is their best\nmatch. A dash: the truth leaves it open (`identity`: rank "
        "2, directions not determined; `mlp_out`: its rank).\nMSE: mean over outputs, held-out "
        f"samples, all sites masked at once.\n\n{table}"
    )


def _cell(values: pd.Series[Any], name: str) -> str:
    if values.empty:
        return "–"
    form = "{:.1e}" if name.startswith("mse") else "{:.3g}"
    mean, low, high = (form.format(v) for v in (values.mean(), values.min(), values.max()))
    return mean if low == high else f"{mean} [{low}, {high}]"


def main() -> None:
    """Run what is missing, then write summary, table and pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/toys"), help="decompositions")
    parser.add_argument("--out", type=Path, default=Path("results/toys"), help="summary and table")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given, words = told_apart(sys.argv[1:])
    options = parser.parse_args(given)
    register_schemas()
    try:
        make_folder(options.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    rows, failures = [], []
    for seed in options.seeds:  # one seed of everything first
        for variant in options.variants:
            folder = make_folder(options.work / f"{variant}_s{seed}")
            own = [*VARIANTS[variant], f"seed={seed}", f"out='{folder}'", *words]
            print(f"{variant}, seed {seed}", file=sys.stderr, flush=True)
            try:
                record = decomposed(own, SETTINGS)
            except (UserError, TrainingError) as error:
                failures.append(f"{variant}, seed {seed}: {error}")
                continue
            rows += rows_of(variant, seed, record)
            if seed == options.seeds[0]:
                for kind in ("png", "svg"):
                    shutil.copyfile(
                        folder / f"directions.{kind}", options.out / f"{variant}.{kind}"
                    )
            _write(rows, options.out)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


def _write(rows: list[dict[str, Any]], out: Path) -> None:
    frame = pd.DataFrame(rows)
    order = {name: i for i, name in enumerate(VARIANTS)}
    frame = frame.sort_values(
        ["toy", "site", "seed"], key=lambda c: c.map(order) if c.name == "toy" else c
    )
    for name in MEASURES:
        if name not in frame:
            frame[name] = None
    write_csv(frame, out / "summary.csv")
    write_text(out / "table.md", page(frame))


if __name__ == "__main__":
    main()
