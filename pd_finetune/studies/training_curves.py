"""Have decompositions settled, and how good are they? From their records alone, side by side.

`python -m pd_finetune.studies.training_curves` writes training.csv (a row per decomposition and
logged window of its training), its picture, and training.md: a row of evidence for each, as
measured when its training ended.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from omegaconf import MISSING

from pd_finetune.decomposition.folder import RECORD
from pd_finetune.errors import UserError
from pd_finetune.files import make_folder, write_text
from pd_finetune.loading.folders import decomposition_folder
from pd_finetune.main import stage_main
from pd_finetune.plots import style
from pd_finetune.plots.evidence import convergence
from pd_finetune.schema import Checked, NotEmpty
from pd_finetune.studies.cells import Columns, cells
from pd_finetune.tables import markdown

CHANGES = ("ci_l0", "adversarial_kl_nats")  # of a training, see `change`
_KL = ("unmasked", "stochastic", "ci_masked", "rounded", "fresh_adversary", "random", "zero")
COLUMNS: Columns = {
    "decomposition": ("decomposition", "{}"),
    "steps": ("steps", "{:,}"),
    "minutes": ("minutes", "{:.0f}"),
    "CI-L0": ("ci_l0", "{:.0f}"),
    "above 0.1": ("ci_l0_above_0.1", "{:.0f}"),
    "alive": ("alive", "{:,}"),
    **{f"KL {kind.replace('_', ' ')}": (f"kl_{kind}", "{:.3g}") for kind in _KL},
    "change of L0": ("change_ci_l0", "{:+.1%}"),
    "change of adversarial KL": ("change_adversarial_kl_nats", "{:+.1%}"),
}
_SETTLED = 0.2  # of the training, at its end, over which a change is stated


@dataclass
class TrainingCurvesConfig(Checked):
    """Trainings side by side: `python -m pd_finetune.studies.training_curves`."""

    decompositions: Annotated[list[str], NotEmpty("name folders, or what ships")] = MISSING
    out: str = MISSING


def read(name: str) -> dict[str, Any]:
    """The record of one decomposition.

    Raises:
        UserError: there is none, or it was not written by this project's trainer.
    """
    path = decomposition_folder(name) / RECORD
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"no decomposition at '{path.parent}': {error}") from None
    if not record.get("history") or "kl_nats" not in record.get("evidence", {}):
        raise UserError(
            f"'{path}' has no history or no evidence of KL: python -m pd_finetune.decompose writes "
            "both for a language model"
        )
    return record


def change(curve: pd.DataFrame, name: str) -> float:
    """Relative change between the two halves of the last fifth of a training; NaN: too short."""
    if name not in curve:
        return math.nan
    last = curve[curve["step"] > (1 - _SETTLED) * curve["step"].max()][name].to_numpy()
    first, second = last[: len(last) // 2], last[len(last) // 2 :]
    return float(second.mean() / first.mean() - 1) if len(first) else math.nan


def row(name: str, record: dict[str, Any], curve: pd.DataFrame) -> dict[str, Any]:
    """Evidence of one decomposition; KL in nats per token."""
    evidence = record["evidence"]
    return {
        **evidence,
        "decomposition": name,
        "steps": int(curve["step"].iloc[-1]),
        "minutes": record["seconds"] / 60,
        **{f"kl_{kind}": evidence["kl_nats"].get(kind) for kind in _KL},
        **{f"change_{name}": change(curve, name) for name in CHANGES},
    }


def page(table: str, records: dict[str, dict[str, Any]]) -> str:
    """The table with what its columns mean, and the picture."""
    steps = sorted({record["evidence"]["adversary_steps"] for record in records.values()})
    return (
        "# Training curves and evidence\n\n"
        "KL in nats per token on held-out text, all sites masked, measured as each training "
        "ended; *fresh adversary*:\n"
        f"{' or '.join(map(str, steps))} sign steps of one source for all tokens. *Change*: "
        "relative, between the two halves of the\nlast fifth of the training.\n\n"
        f"{table}\n![Training curves](training.png)\n"
    )


def run(config: TrainingCurvesConfig) -> Path:
    """Read the records, draw the curves, write the table.

    Raises:
        UserError: a decomposition or its record is missing.
    """
    records = {name: read(name) for name in config.decompositions}
    out = make_folder(Path(config.out).expanduser())
    last = [Path(name).name for name in records]
    names = last if len(set(last)) == len(last) else list(records)  # short ones where they differ
    curves = {
        name: pd.DataFrame(record["history"]).assign(decomposition=name)
        for name, record in zip(names, records.values(), strict=True)
    }
    rows = [row(*parts, curves[parts[0]]) for parts in zip(names, records.values(), strict=True)]
    table = markdown(cells(pd.DataFrame(rows), COLUMNS))
    together = pd.concat(curves.values(), ignore_index=True)
    style.save(convergence.draw(together, "decomposition"), out, "training")
    write_text(out / "training.md", page(table, records))
    print(table)
    return out


if __name__ == "__main__":
    stage_main("training_curves", TrainingCurvesConfig, run)
