"""Ground truth first: train, decompose and score every toy over seeds.

`python -m pd_finetune.studies.toys`: every toy by three seeds, and TMS 5-2 without the adversary
(SPD). What is finished with the same settings is not done again. Writes summary.csv (a row per run
and site), table.md (means over seeds) and the pictures of the first seed.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from omegaconf import MISSING

from pd_finetune.files import make_folder, write_text
from pd_finetune.main import stage_main
from pd_finetune.schema import NotEmpty, OneOf, Seed
from pd_finetune.studies.trainings import TrainingsConfig, train_all
from pd_finetune.tables import markdown, write_csv

VARIANTS = {
    "tms_5_2": ["experiment=toy_tms_5_2"],
    "tms_5_2_spd": ["experiment=toy_tms_5_2", "recipe.adversary=false"],
    "tms_identity": ["experiment=toy_tms_identity"],
    "tms_40_10": ["experiment=toy_tms_40_10"],
    "residual_mlp": ["experiment=toy_residual_mlp"],
}
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


@dataclass
class ToysConfig(TrainingsConfig):
    """Toys with a known answer: `python -m pd_finetune.studies.toys`."""

    variants: Annotated[list[Annotated[str, OneOf(*VARIANTS)]], NotEmpty()] = MISSING
    seeds: Annotated[list[Seed], NotEmpty()] = MISSING


def rows_of(variant: str, record: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per site."""
    mse = {f"mse_{name}": value for name, value in record["evidence"]["mse"].items()}
    common = {"toy_mse": record["toy"]["mse"], "seconds": record["seconds"], **mse}
    return [
        {
            "toy": variant,
            "site": site,
            "seed": record["config"]["seed"],
            **found,
            "mean_max_cosine_start": record["truth_at_start"][site].get("mean_max_cosine"),
            **common,
        }
        for site, found in record["truth"].items()
    ]


def page(frame: pd.DataFrame) -> str:
    """A row per toy and site: means over seeds, the range behind what differs between them."""
    numbers = ["seeds", *MEASURES.values()]
    lines = [
        [toy, site, str(len(group)), *(_cell(group[name].dropna(), name) for name in MEASURES)]
        for (toy, site), group in frame.groupby(["toy", "site"], sort=False)
    ]
    table = pd.DataFrame(lines, columns=["toy", "site", *numbers])
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
        "samples, all sites masked at once.\n\n"
        f"{markdown(table, table.columns, right=numbers)}"
    )


def _cell(values: pd.Series[Any], name: str) -> str:
    if values.empty:
        return "–"
    form = "{:.1e}" if name.startswith("mse") else "{:.3g}"
    mean, low, high = (form.format(v) for v in (values.mean(), values.min(), values.max()))
    return mean if low == high else f"{mean} [{low}, {high}]"


def run(config: ToysConfig) -> Path:
    """Make what is missing; what is asked for whole is written, too.

    Raises:
        UserError: a word is wrong.
        TrainingError: a toy or its decomposition failed.
    """
    out = make_folder(Path(config.out).expanduser())
    places = {  # one seed of everything first
        f"{variant}_s{seed}": (variant, seed)
        for seed in config.seeds
        for variant in config.variants
    }
    words = {name: [*VARIANTS[toy], f"seed={seed}"] for name, (toy, seed) in places.items()}
    records = train_all(config, words)
    if config.only:
        return out
    rows = [row for name, record in records.items() for row in rows_of(places[name][0], record)]
    order = {name: place for place, name in enumerate(VARIANTS)}
    frame = pd.DataFrame(rows).sort_values(
        ["toy", "site", "seed"], key=lambda c: c.map(order) if c.name == "toy" else c
    )
    for name in set(MEASURES) - set(frame):
        frame[name] = None
    write_csv(frame, out / "summary.csv")
    write_text(out / "table.md", page(frame))
    for variant in config.variants:
        pictures = Path(config.work).expanduser() / f"{variant}_s{config.seeds[0]}"
        for kind in ("png", "svg"):
            shutil.copyfile(pictures / f"directions.{kind}", out / f"{variant}.{kind}")
    return out


if __name__ == "__main__":
    stage_main("toys", ToysConfig, run)
