"""The front: decompositions of the embedded target at several minimality coefficients.

`python -m pd_finetune.studies.front` trains each (`experiment=front`) and measures it by
`pd_finetune.quality` on held-out text. What is finished with the same settings is not done again.
It writes front.csv (a row per decomposition), curves.csv (a row per decomposition and logged window
of its training), their pictures, and front.md: the table, the rule, and which one it chooses.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from omegaconf import MISSING

from pd_finetune import quality
from pd_finetune.files import make_folder, write_text
from pd_finetune.main import stage_main
from pd_finetune.plots import style
from pd_finetune.plots.evidence import convergence, front
from pd_finetune.schema import NotEmpty, Positive
from pd_finetune.studies.cells import Columns, cells
from pd_finetune.studies.training_curves import CHANGES, change
from pd_finetune.studies.trainings import TrainingsConfig, composed, train_all
from pd_finetune.tables import markdown

TO_FREQUENCY = 3  # the frequency coefficient is the minimality coefficient by this
RUNGS = [20, 40, 80]  # steps of the fresh adversary
MOST_KL_SHARE = 0.02  # of the rule, see `choose`
COLUMNS: Columns = {
    "minimality": ("coefficient", "{:g}"),
    "frequency": ("frequency", "{:.2g}"),
    "CI-L0": ("ci_l0", "{:.0f}"),
    "above 0.1": ("ci_l0_above_0.1", "{:.0f}"),
    "alive": ("alive", "{:,.0f}"),
    "KL unmasked": ("kl_unmasked", "{:.2g}"),
    "stochastic": ("kl_stochastic", "{:.3g}"),
    "CI-masked": ("kl_ci_masked", "{:.3g}"),
    "rounded": ("kl_rounded", "{:.3g}"),
    **{f"fresh {steps}": (f"kl_fresh_{steps}", "{:.3g}") for steps in RUNGS},
    "change of L0": ("change_ci_l0", "{:+.1%}"),
    "of adversarial KL": ("change_adversarial_kl_nats", "{:+.1%}"),
}


@dataclass
class FrontConfig(TrainingsConfig):
    """Minimality against reconstruction: `python -m pd_finetune.studies.front`."""

    coefficients: Annotated[list[Positive], NotEmpty()] = MISSING  # of minimality
    quality: list[str] = MISSING  # words of python -m pd_finetune.quality, for every one


def words_of(coefficient: float) -> list[str]:
    """What makes a decomposition this one."""
    return [
        "experiment=front",
        f"recipe.minimality_coefficient={coefficient}",
        f"recipe.frequency_coefficient={coefficient / TO_FREQUENCY}",
    ]


def measured(folder: Path, words: list[str]) -> dict[str, Any]:
    """The evidence record of a decomposition's folder, measured where it is missing."""
    out = folder / "quality"
    ladder = f"adversary={{rungs: {RUNGS}, restarts: 1, site_steps: 1}}"
    own = ["decomposition=folder", f"decomposition.folder='{folder}'", f"out='{out}'", ladder]
    quality.run(composed("quality", quality.EvidenceConfig, [*words, *own]))
    record: dict[str, Any] = json.loads((out / quality.RECORD).read_text())
    return record


def row(record: dict[str, Any], evidence: dict[str, Any], curve: pd.DataFrame) -> dict[str, Any]:
    """The numbers of one decomposition; KL in nats per token."""
    recipe = record["config"]["recipe"]
    return {
        "coefficient": recipe["minimality_coefficient"],
        **{name: evidence[name] for name in ("ci_l0", "ci_l0_above_0.1", "alive")},
        **{f"kl_{name}": found["nats"] for name, found in evidence["kl"].items()},
        **{f"kl_fresh_{r['steps']}": r["nats"] for r in evidence["adversary"]["rungs"]},
        **{f"change_{name}": change(curve, name) for name in CHANGES},
        "frequency": recipe["frequency_coefficient"],
        "steps": int(curve["step"].iloc[-1]),
    }


def choose(points: pd.DataFrame) -> float | None:
    """The rule: the sparsest whose stochastic KL is at most 2 % of the zero-masked one's."""
    good = points[points["kl_stochastic"] <= MOST_KL_SHARE * points["kl_zero"]]
    if good.empty:
        return None
    return float(good.sort_values("ci_l0")["coefficient"].iloc[0])


def page(points: pd.DataFrame, chosen: float | None) -> str:
    """The table, in the order of `points`, with what its columns mean."""
    table = cells(points, COLUMNS)
    table[points["coefficient"] == chosen] = table.map("**{}**".format)
    steps = ", ".join(f"{s:,}" for s in sorted(set(points["steps"])))
    return (
        "# Sparsity against reconstruction\n\n"
        f"One decomposition of the embedded target per minimality coefficient, {steps} steps each. "
        "KL in nats per token on\nheld-out text, all "
        f"sites masked (zero-masked: {points['kl_zero'].mean():.1f}, random masks: "
        f"{points['kl_random'].min():.2f} to {points['kl_random'].max():.2f}). *Fresh n*:\nthe "
        "adversary's shared source after n sign steps from one random start.\n*Change*: relative, "
        "between the two halves of the last fifth of the training.\n\n"
        f"{markdown(table, table.columns, right=table.columns)}\n"
        f"Rule: the sparsest whose stochastic KL is at most {MOST_KL_SHARE:.0%} of the "
        f"zero-masked KL. It chooses {'none' if chosen is None else f'{chosen:g}'}.\n"
    )


def run(config: FrontConfig) -> Path:
    """Train and measure what is missing; what is asked for whole is written, too.

    Raises:
        UserError: a word is wrong, or parts are missing or do not belong together.
        TrainingError: a decomposition failed.
    """
    out = make_folder(Path(config.out).expanduser())
    wanted = {f"m{coefficient:g}": words_of(coefficient) for coefficient in config.coefficients}
    rows, curves = [], []
    for name, record in train_all(config, wanted).items():
        evidence = measured(Path(config.work).expanduser() / name, config.quality)
        coefficient = record["config"]["recipe"]["minimality_coefficient"]
        curves.append(pd.DataFrame(record["history"]).assign(coefficient=coefficient))
        rows.append(row(record, evidence, curves[-1]))
    if not config.only:
        points = pd.DataFrame(rows).sort_values("coefficient", ignore_index=True)
        chosen = choose(points)
        style.save(front.draw(points, chosen), out, "front")
        together = pd.concat(curves, ignore_index=True)
        style.save(convergence.draw(together, "coefficient"), out, "curves")
        write_text(out / "front.md", page(points, chosen))
    return out


if __name__ == "__main__":
    stage_main("front", FrontConfig, run)
