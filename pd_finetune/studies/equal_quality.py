"""Equal quality in less time? `recipe=merged` in a fifth of the time of `recipe=paper`.

`python -m pd_finetune.studies.equal_quality` decomposes the embedded target by the paper's recipe
at two learning rates (and more sparsely at the higher one), and by the merged recipe at the higher
rate and several minimality coefficients, in as many steps as take a share of that time.
Time is steps times seconds per step, as `benchmarks.decompose` measured them side by side
(`speed`), for `rival` (the plain reference, or `paper`: this package's own way of the same step)
and for the merged recipe, so it does not depend on what else runs during the hours that this takes.
The rival's weights come from this package's `recipe=paper`, whose losses and gradients are the
reference's (`agreement_float32` in the same record).

Better or worse is read at equal CI-L0: between the merged recipe's decompositions of one learning
rate and share, ln KL is taken to be linear in ln L0. What is finished with the same settings is not
done again. What changes the work of a step (rows, sites, widths) asks for a record of the benchmark
at that size.

Writes equal_quality.csv (a row per decomposition), its picture, and equal_quality.md.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from omegaconf import MISSING

from pd_finetune.errors import UserError
from pd_finetune.files import make_folder, write_text
from pd_finetune.main import stage_main
from pd_finetune.plots import style
from pd_finetune.plots.evidence import equal_quality as picture
from pd_finetune.schema import Above, Checked, Count, NotEmpty, OneOf, Positive
from pd_finetune.studies.cells import cells
from pd_finetune.studies.trainings import TrainingsConfig, train_all
from pd_finetune.tables import markdown

TO_FREQUENCY = 3  # the frequency coefficient is the minimality coefficient by this
KL = {  # as the records have them: as the tables do
    "stochastic": "stochastic",
    "ci_masked": "CI-masked",
    "fresh_adversary": "fresh adversary",
}


@dataclass
class RivalConfig(Checked, at="rivals"):
    """A decomposition of the paper's recipe."""

    lr: Positive = MISSING
    minimality: Positive = MISSING


@dataclass
class EqualQualityConfig(TrainingsConfig):
    """Recipes in a share of the time: `python -m pd_finetune.studies.equal_quality`."""

    rivals: Annotated[list[RivalConfig], NotEmpty()] = MISSING
    rival: Annotated[str, OneOf("reference", "paper")] = MISSING  # whose seconds a step takes
    steps: Count = MISSING  # of each rival
    shares: Annotated[list[Annotated[float, Above(1)]], NotEmpty()] = MISSING  # see `Training`
    lrs: Annotated[list[Positive], NotEmpty()] = MISSING
    coefficients: Annotated[list[Positive], NotEmpty()] = MISSING  # of minimality
    speed: str = MISSING  # record of benchmarks.decompose


@dataclass(frozen=True)
class Training:
    """One decomposition of the comparison.

    Args:
        coefficient: of minimality.
        share: the rival's time by this one's; 1 for the rival itself.
    """

    recipe: str
    share: float
    lr: float
    coefficient: float
    steps: int

    @property
    def name(self) -> str:
        return f"{self.recipe}-lr{self.lr:g}-m{self.coefficient:g}-{self.steps}"

    @property
    def words(self) -> list[str]:
        """Overrides of `decompose`."""
        words = [
            "start_from=null",
            f"recipe={self.recipe}",
            f"recipe.lr={self.lr:g}",
            f"recipe.steps={self.steps}",
            f"recipe.minimality_coefficient={self.coefficient:g}",
        ]
        if self.recipe == "merged":
            words.append(f"recipe.frequency_coefficient={self.coefficient / TO_FREQUENCY:.4g}")
        return words


def trainings(config: EqualQualityConfig, seconds: dict[str, float]) -> list[Training]:
    """All decompositions: the rival's, then the merged recipe's by share, rate and coefficient.

    Args:
        seconds: of one step, by recipe.
    """
    found = [Training("paper", 1.0, r.lr, r.minimality, config.steps) for r in config.rivals]
    for share in config.shares:
        steps = round(config.steps * seconds["paper"] / seconds["merged"] / share)
        found += [
            Training("merged", share, lr, coefficient, steps)
            for lr in config.lrs
            for coefficient in config.coefficients
        ]
    return found


def timings(path: Path, rival: str) -> tuple[dict[str, float], str]:
    """Seconds of a step by recipe, `paper`'s those of the rival, and how they were measured.

    Raises:
        UserError: `path` is no record of `benchmarks.decompose` that has both.
    """
    try:
        record = json.loads(path.read_text())["embedded"]
        pair = {"paper": record["variants"][rival], "merged": record["variants"]["merged"]}
        seconds = {recipe: float(own["step_seconds"]) for recipe, own in pair.items()}
        turns = [own["step_seconds_of_turns"] for own in pair.values()]
        spans = " and ".join(f"{min(own):.2f} to {max(own):.2f}" for own in turns)
        load = record["machine"]["load_before"]
        how = f"{record['threads']} threads, {spans} s a step over {len(turns[0])} turns"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"speed={path} has no times of {rival} and merged ({error!r}): "
            "python -m benchmarks.decompose writes them"
        ) from None
    return seconds, f"{how}, load {load:.1f} beforehand"


def row(made: Training, record: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
    """Numbers of one decomposition; KL in nats per token of held-out text."""
    evidence = record["evidence"]
    return {
        **asdict(made),
        "minutes": made.steps * seconds[made.recipe] / 60,
        "ci_l0": evidence["ci_l0"],
        "alive": evidence["alive"],
        **{f"kl_{name}": evidence["kl_nats"][name] for name in ("unmasked", *KL)},
    }


def at_equal_l0(curve: pd.DataFrame, l0: float, column: str) -> float:
    """KL of a front at a CI-L0; NaN outside of it, as nothing is known there."""
    points = curve.sort_values("ci_l0")
    x, y = np.log(points["ci_l0"].to_numpy()), np.log(points[column].to_numpy())
    if not x[0] <= math.log(l0) <= x[-1]:
        return math.nan
    return float(np.exp(np.interp(math.log(l0), x, y)))


def comparison(rows: pd.DataFrame) -> pd.DataFrame:
    """The merged recipe's KL over the rival's, at the rival's CI-L0; a row per pair of curves."""
    found = []
    merged = rows[rows["recipe"] == "merged"]
    for rival in rows[rows["recipe"] == "paper"].to_dict("records"):
        for (share, lr), curve in merged.groupby(["share", "lr"]):
            ratios = {
                name: at_equal_l0(curve, rival["ci_l0"], f"kl_{name}") / rival[f"kl_{name}"]
                for name in KL
            }
            who = {"rival_lr": rival["lr"], "rival_coefficient": rival["coefficient"]}
            found.append({**who, "rival_l0": rival["ci_l0"], "share": share, "lr": lr, **ratios})
    return pd.DataFrame(found)


def page(rows: pd.DataFrame, ratios: pd.DataFrame, rival: str, how: str) -> str:
    """Both tables with what they mean; `how` the seconds of a step were measured."""
    every = cells(
        rows,
        {
            "recipe": ("recipe", "`{}`"),
            "time": ("share", "1/{:g}"),
            "lr": ("lr", "{:g}"),
            "minimality": ("coefficient", "{:g}"),
            "steps": ("steps", "{:,}"),
            "minutes": ("minutes", "{:.1f}"),
            "CI-L0": ("ci_l0", "{:.0f}"),
            "alive": ("alive", "{:,}"),
            **{label: (f"kl_{name}", "{:.2f}") for name, label in KL.items()},
        },
    ).replace({"time": {"1/1": "1"}})
    compared = cells(
        ratios,
        {
            "lr of the rival": ("rival_lr", "{:g}"),
            "minimality": ("rival_coefficient", "{:g}"),
            "CI-L0": ("rival_l0", "{:.0f}"),
            "time": ("share", "1/{:g}"),
            "lr": ("lr", "{:g}"),
            **{label: (name, "{:.2f}") for name, label in KL.items()},
        },
    )
    right = ("lr of the rival", "minimality", "lr")
    names = {"reference": "the plain reference", "paper": "this package's `recipe=paper`"}
    return (
        "# Equal quality in less time\n\n"
        "Decompositions of the embedded target, each with a whole schedule of its own. KL in nats "
        "per token on held-out\ntext. Minutes: steps times the seconds of a step of "
        f"{names[rival]}\nand of the merged recipe ({how}).\n\n"
        f"{markdown(every, ['recipe'], right)}\n"
        "KL of the merged recipe divided by the rival's, at the rival's CI-L0, between its own "
        "decompositions; below 1 is better.\n–: its decompositions do not reach this CI-L0.\n\n"
        f"{markdown(compared, right=right)}"
    )


def run(config: EqualQualityConfig) -> Path:
    """Train what is missing; what is asked for whole is written, too.

    Raises:
        UserError: a word is wrong, or there are no times of a step.
        TrainingError: a decomposition failed.
    """
    seconds, how = timings(Path(config.speed).expanduser(), config.rival)
    wanted = {training.name: training for training in trainings(config, seconds)}
    out = make_folder(Path(config.out).expanduser())
    records = train_all(config, {name: made.words for name, made in wanted.items()})
    if not config.only:
        rows = [row(wanted[name], record, seconds) for name, record in records.items()]
        frame = pd.DataFrame(rows)
        style.save(picture.draw(frame), out, "equal_quality")
        text = page(frame, comparison(frame), config.rival, how)
        write_text(out / "equal_quality.md", text)
    return out


if __name__ == "__main__":
    stage_main("equal_quality", EqualQualityConfig, run)
