"""Tune learning rate and KL weight of one arm on validation text: the same trials for every arm.

    python scripts/tune.py --arm one_scalar --out results/embedded/tuning

For each band of budgets, at one budget inside it: first a grid of 4 x 4 settings with one sample of
tokens, then a cross around the best (half and double the rate, a third and three times the weight)
with two samples, then at the best of these a third setting, lower and higher: LoRA's alpha, a
quarter and four times, or where masks start, 0 and -4. Samples are of seeds that no reported run
draws. A trial is a full fine-tune, scored on validation text: nats short of chance on the target
language, plus ten times what English damage exceeds 0.10 nats; ties go to the lower damage. All
trials are kept in <out>/<arm>.csv; one that is there is not done again. What it prints last goes
into configs/method/ or configs/arm/.
"""

import argparse
import csv
import itertools
from pathlib import Path
from typing import Any

from pd_finetune.results.table import DAMAGE_NATS
from pd_finetune.results.tuning import ALSO, COLUMNS, DAMAGE_WEIGHT

LR = {
    "one_scalar": (0.1, 0.2, 0.4, 0.8),
    "top16": (0.2, 0.4, 0.8, 1.6),
    "lora_r1": (6e-3, 2e-2, 6e-2, 2e-1),
    "lora_r4": (6e-3, 2e-2, 6e-2, 2e-1),
    "localized_lora": (6e-3, 2e-2, 6e-2, 2e-1),
}
# a third setting: that of the grid and the cross, then what is tried at the best of these
THIRD = {
    "one_scalar": ("start=-1.0", "start=0.0", "start=-4.0"),
    "top16": ("start=-1.0", "start=0.0", "start=-4.0"),
    "lora_r1": ("alpha=1.0", "alpha=0.25", "alpha=4.0"),
    "lora_r4": ("alpha=4.0", "alpha=1.0", "alpha=16.0"),
    "localized_lora": ("alpha=1.0", "alpha=0.25", "alpha=4.0"),
}
KL_WEIGHT = (1.0, 3.0, 10.0, 30.0)
BANDS = {1: 4, 16: 64, 256: 512}  # budgets from here on are tuned at this one
SEEDS = (1000, 1001)

Setting = tuple[float, float]
Score = tuple[float, float]


def score(row: dict[str, Any]) -> Score:
    """Nats short of chance + 10 * (English damage over 0.10), then damage; lower is better."""
    short = max(0.0, float(row["to_chance_nats"]))
    damage = float(row["english_damage_nats"])
    return short + DAMAGE_WEIGHT * max(0.0, damage - DAMAGE_NATS), damage


def around(best: Setting) -> list[Setting]:
    """The cross of five settings about one."""
    lr, kl_weight = best
    kl_ladder = (0.03, 0.1, 0.3, *KL_WEIGHT, 100.0, 300.0)
    place = kl_ladder.index(kl_weight)
    return [
        best,
        (float(f"{lr / 2:.3g}"), kl_weight),
        (float(f"{lr * 2:.3g}"), kl_weight),
        (lr, kl_ladder[place - 1]),
        (lr, kl_ladder[place + 1]),
    ]


def fine_tune(overrides: list[str]) -> tuple[float, float]:
    """(to chance, English damage) in nats of one fine-tune, on validation text."""
    from pd_finetune.finetuning.experiment import Prepared
    from pd_finetune.finetuning.setting import load_setting

    config = stage_config("config", overrides)
    prepared = Prepared.of(config, load_setting(config))
    prepared.finetune()
    found = prepared.evaluate()
    target = config.languages.target
    to_chance = prepared.setting.target.chance_nats - found.edited_ce_nats[target]
    return to_chance, found.damage_nats[config.languages.preserve[0]]


class Trials:
    """All trials of one arm, on file; a missing one is done when it is asked for."""

    def __init__(self, arm: str, path: Path, overrides: list[str]) -> None:
        self.arm, self.path, self.overrides = arm, path, overrides
        self.scores: dict[tuple[float, float, int, int, str], Score] = {}
        if path.is_file():
            with open(path, newline="") as handle:
                for row in csv.DictReader(handle):
                    lr, kl_weight = float(row["lr"]), float(row["kl_weight"])
                    key = (lr, kl_weight, int(row["budget"]), int(row["seed"]), row[ALSO])
                    self.scores[key] = score(row)

    def score(self, setting: Setting, budget: int, seeds: tuple[int, ...], also: str) -> Score:
        """Means over samples."""
        scores = [self._one(*setting, budget, seed, also) for seed in seeds]
        first, second = (sum(values) / len(seeds) for values in zip(*scores, strict=True))
        return first, second

    def _one(self, lr: float, kl_weight: float, budget: int, seed: int, also: str) -> Score:
        key = (lr, kl_weight, budget, seed, also)
        if key not in self.scores:
            values = fine_tune(
                [
                    f"arm={self.arm}",
                    "evaluation=fast",
                    "logger=none",
                    "languages.all=[de,en]",
                    "progress=false",
                    f"method.lr={lr}",
                    f"method.kl_weight={kl_weight}",
                    f"budget={budget}",
                    f"seed={seed}",
                    f"method.{also}",
                    *self.overrides,
                ]
            )
            row = dict(zip(COLUMNS, (self.arm, *key[:4], *values, also), strict=True))
            self.scores[key] = score(row)
            new = not self.path.is_file()
            with open(self.path, "a", newline="") as handle:
                writer = csv.DictWriter(handle, COLUMNS)
                if new:
                    writer.writeheader()
                writer.writerow(row)
            print(*row.values(), f"score {self.scores[key][0]:.3f}", flush=True)
        return self.scores[key]


def main() -> None:
    """Run the trials of one arm that are missing, and print the best settings of each band."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", choices=sorted(LR), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", help="further overrides, as for pd_finetune.run")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    trials = Trials(options.arm, options.out / f"{options.arm}.csv", options.overrides)
    for band, budget in BANDS.items():
        grid = list(itertools.product(LR[options.arm], KL_WEIGHT))
        usual, *others = THIRD[options.arm]
        coarse = {setting: trials.score(setting, budget, SEEDS[:1], usual) for setting in grid}
        best = min(grid, key=coarse.__getitem__)
        fine = {setting: trials.score(setting, budget, SEEDS, usual) for setting in around(best)}
        setting = min(fine, key=fine.__getitem__)
        found = {(*setting, usual): value for setting, value in fine.items()}
        for also in others:
            found[*setting, also] = trials.score(setting, budget, SEEDS, also)
        for lr, kl_weight, also in sorted(found, key=found.__getitem__):
            short, damage = found[lr, kl_weight, also]
            print(
                f"{options.arm}, budgets from {band}: lr {lr}, kl_weight {kl_weight} {also}: "
                f"score {short:.3f}, English {damage:+.3f}"
            )


if __name__ == "__main__":
    main()
