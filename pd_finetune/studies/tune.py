"""Tune arms' settings on validation text: the same trials for every arm, the same score.

`python -m pd_finetune.studies.tune`, for each arm and each band of budgets: at one budget inside
it, first a grid with one sample of tokens (learning rate x KL weight), then a cross about its best
with all samples, then, at the best of these, other values of a third key. A trial is a fine-tune in
a run directory, so that one that is finished is not done again. `results.tuning` scores it. All
trials are kept in <out>/<arm>.csv. What it prints last goes into configs/method/ or configs/arm/.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from omegaconf import MISSING, OmegaConf

from pd_finetune.cli import compose
from pd_finetune.errors import UserError
from pd_finetune.files import make_folder
from pd_finetune.finetuning.config import RunConfig
from pd_finetune.main import stage_main
from pd_finetune.results.tuning import ALSO, COLUMNS, score
from pd_finetune.schema import Checked, Count, NotEmpty, Positive, Seed
from pd_finetune.studies.trainings import composed
from pd_finetune.tables import write_csv

Setting = dict[str, float]  # values by key of a run's config
Score = tuple[float, float]  # of `results.tuning`, then protected damage in nats: lower is better


@dataclass
class AxisConfig(Checked):
    """Values to try of a key of a run's config: those of the arm, or `values`, or `times`."""

    key: str = MISSING
    values: list[float] = field(default_factory=list)
    times: list[Positive] = field(default_factory=list)  # multiples of what the arm's YAML has
    by_arm: dict[str, list[float]] = field(default_factory=dict)
    cross: list[Positive] = field(default_factory=list)  # multiples of the grid's best
    digits: Count = 3  # of multiples

    def multiples(self, value: float, factors: list[float]) -> list[float]:
        """Rounded to `digits`; of a whole number they are whole."""
        found = [float(f"{value * factor:.{self.digits}g}") for factor in factors]
        return [round(v) for v in found] if isinstance(value, int) else found

    def tried(self, arm: str, usual: float) -> list[float]:
        """The values for one arm, `usual` being that of its YAML."""
        return self.by_arm.get(arm) or self.values or self.multiples(usual, self.times)


@dataclass
class TuneConfig(Checked):
    """Settings of arms by validation text: `python -m pd_finetune.studies.tune`."""

    arms: Annotated[list[str], NotEmpty("name some of configs/arm")] = MISSING
    run: list[str] = MISSING  # further words of python -m pd_finetune.run, for every trial
    bands: Annotated[dict[int, Count], NotEmpty()] = MISSING  # smallest budget: where it is tuned
    seeds: Annotated[list[Seed], NotEmpty()] = MISSING  # of samples; the grid takes the first
    grid: Annotated[list[AxisConfig], NotEmpty()] = MISSING  # every combination
    third: Annotated[list[AxisConfig], NotEmpty()] = MISSING  # the first that the arm has
    work: str = MISSING  # run directories
    out: str = MISSING


class Trials:
    """All trials of one arm; one that is missing is done when it is asked for.

    Raises:
        UserError: a word is wrong, or the text is not that for validation.
    """

    def __init__(self, arm: str, config: TuneConfig) -> None:
        self.arm, self._path = arm, Path(config.out).expanduser() / f"{arm}.csv"
        self._words = [f"arm={arm}", "evaluation=fast", "logger=none", "progress=false"]
        self._words += [f"paths.runs='{Path(config.work).expanduser()}'", *config.run]
        plain: RunConfig = composed("run", RunConfig, self._words)
        if plain.evaluation.split != "validation":
            raise UserError(
                f"run: evaluation.split={plain.evaluation.split}: settings are chosen on "
                "validation text"
            )
        # other languages decide nothing
        names = ",".join([plain.languages.target, *plain.languages.preserve])
        self._words.insert(1, f"languages.all=[{names}]")
        self._rows: list[dict[str, Any]] = []
        self._scores: dict[tuple[Any, ...], Score] = {}

    def usual(self, key: str, budget: int) -> Any:
        """What the arm's YAML has for a key at this budget; None where it has none."""
        words = [*self._words, f"budget={budget}"]
        return OmegaConf.select(compose.composed("run", words), key)

    def score(self, setting: Setting, budget: int, seeds: list[int]) -> Score:
        """Means over samples."""
        scores = [self._one(setting, budget, seed) for seed in seeds]
        first, second = (sum(values) / len(seeds) for values in zip(*scores, strict=True))
        return first, second

    def _one(self, setting: Setting, budget: int, seed: int) -> Score:
        trial = (*setting.items(), budget, seed)
        if trial not in self._scores:
            from pd_finetune.on_demand import finetuned

            words = [f"{key}={value}" for key, value in setting.items()]
            words += [f"budget={budget}", f"seed={seed}"]
            record, _, _ = finetuned(composed("run", RunConfig, [*self._words, *words]))
            assert record.to_chance_nats is not None
            damage = max(record.damage_nats[name] for name in record.protected_languages)
            others = [key for key in setting if key not in ("method.lr", "method.kl_weight")]
            row = {
                "arm": self.arm,
                "lr": record.config["method"]["lr"],
                "kl_weight": record.config["objective"]["kl_weight"],
                "budget": budget,
                "seed": seed,
                "to_chance_nats": record.to_chance_nats,
                "english_damage_nats": damage,
                ALSO: " ".join(f"{key.rpartition('.')[2]}={setting[key]}" for key in others),
            }
            self._rows.append(row)
            self._keep(pd.DataFrame(self._rows))
            self._scores[trial] = float(score(record.to_chance_nats, damage)), damage
            print(*row.values(), f"score {self._scores[trial][0]:.3f}", flush=True)
        return self._scores[trial]

    def _keep(self, rows: pd.DataFrame) -> None:
        """The arm's CSV, with what was there from elsewhere."""
        if self._path.is_file():
            rows = pd.concat([pd.read_csv(self._path), rows], ignore_index=True)
        rows = rows.drop_duplicates([*COLUMNS[:5], ALSO], keep="last")
        write_csv(rows[list(COLUMNS)], self._path)


def tuned(config: TuneConfig, trials: Trials, budget: int) -> dict[Score, Setting]:
    """The settings of the last two steps by their scores, best first.

    Raises:
        UserError: a key is none of the arm's.
    """
    usual = {axis.key: trials.usual(axis.key, budget) for axis in (*config.grid, *config.third)}
    for axis in config.grid:
        if not isinstance(usual[axis.key], int | float):
            raise UserError(f"grid: {axis.key} is no number of arm={trials.arm}")
    third = next((axis for axis in config.third if usual[axis.key] is not None), None)
    if third is None:
        keys = ", ".join(axis.key for axis in config.third)
        raise UserError(f"third: arm={trials.arm} has none of {keys}")
    names = [axis.key for axis in (*config.grid, third)]
    tried = [axis.tried(trials.arm, usual[axis.key]) for axis in config.grid]
    grid = [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*tried, [usual[third.key]])
    ]
    best = min(grid, key=lambda setting: trials.score(setting, budget, config.seeds[:1]))
    around = [best] + [
        {**best, axis.key: value}
        for axis in config.grid
        for value in axis.multiples(best[axis.key], axis.cross)
    ]
    found = {trials.score(setting, budget, config.seeds): setting for setting in around}
    best = found[min(found)]
    for value in third.tried(trials.arm, usual[third.key]):
        setting = {**best, third.key: value}
        found[trials.score(setting, budget, config.seeds)] = setting
    return dict(sorted(found.items(), key=lambda item: item[0]))


def run(config: TuneConfig) -> Path:
    """Do the trials that are missing, and print the best settings of each band.

    Raises:
        UserError: something asked for does not exist or does not fit together.
    """
    out = make_folder(Path(config.out).expanduser())
    every = [Trials(arm, config) for arm in config.arms]  # wrong words are said first
    for trials, (band, budget) in itertools.product(every, config.bands.items()):
        for (nats, damage), setting in tuned(config, trials, budget).items():
            words = " ".join(f"{key}={value}" for key, value in setting.items())
            print(
                f"{trials.arm}, budgets from {band}: {words}: "
                f"score {nats:.3f}, protected damage {damage:+.3f}"
            )
    return out


if __name__ == "__main__":
    stage_main("tune", TuneConfig, run)
