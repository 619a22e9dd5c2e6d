"""Equal quality in less time? `recipe=merged` in a fifth of the time of `recipe=paper`.

    python scripts/equal_quality.py --work runs/equal_quality --out results/equal_quality

The embedded target is decomposed by the paper's recipe at two learning rates (and more sparsely at
the higher one), and by the merged recipe at the higher rate and several minimality coefficients, in
as many steps as take a share of that time.
Time is steps times seconds per step, as `benchmarks.decompose` measured them side by side
(`--speed`), for `--rival` (the plain reference, or `paper`: this package's own way of the same
step) and for the merged recipe, so it does not depend on what else runs during the hours that this
takes. The rival's weights come from this package's `recipe=paper`, whose losses and
gradients are the reference's (`agreement_float32` in the same record).

Better or worse is read at equal CI-L0: between the merged recipe's decompositions of one learning
rate and share, ln KL is taken to be linear in ln L0. What is finished with the same settings is not
done again, a killed training goes on from its checkpoint. `--only` trains one part, for several
cores. Words at the end reach every decomposition; what changes the work of a step (rows, sites,
widths) asks for a record of the benchmark at that size.

Writes equal_quality.csv (a row per decomposition), its picture, and equal_quality.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from decomposed import decomposed, ended, told_apart

from pd_finetune.errors import TrainingError, UserError
from pd_finetune.files import make_folder, write_text
from pd_finetune.plots import style
from pd_finetune.plots.evidence import equal_quality as picture
from pd_finetune.plots.tables import markdown

LRS = [3e-3]
RIVALS = ["1e-3:2e-4", "3e-3:2e-4", "3e-3:1e-3"]  # learning rate and minimality coefficient
COEFFICIENTS = [1e-4, 1.5e-4, 3e-4, 5.6e-4]
TO_FREQUENCY = 3
# what makes two decompositions the same
SETTINGS = (
    "model",
    "languages",
    "sites",
    "mixture",
    "recipe",
    "ci_function",
    "initial",
    "quality",
    "start_from",
    "seed",
)
_OWN = (  # words that have no place here
    "out",
    "recipe",
    "recipe.lr",
    "recipe.steps",
    "recipe.minimality_coefficient",
    "recipe.frequency_coefficient",
    "start_from",
    "toy",
    "experiment",
)
KL = {  # as the records have them: as the tables do
    "stochastic": "stochastic",
    "ci_masked": "CI-masked",
    "fresh_adversary": "fresh adversary",
}


@dataclass(frozen=True)
class Arm:
    """One decomposition of the comparison.

    Args:
        coefficient: of minimality.
        share: the rival's time by this one's; 1 for the rival itself.
    """

    recipe: str
    lr: float
    coefficient: float
    steps: int
    share: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.recipe}-lr{self.lr:g}-m{self.coefficient:g}-{self.steps}"

    @property
    def words(self) -> list[str]:
        """Overrides of `decompose`."""
        words = [
            f"recipe={self.recipe}",
            f"recipe.lr={self.lr:g}",
            f"recipe.steps={self.steps}",
            f"recipe.minimality_coefficient={self.coefficient:g}",
        ]
        if self.recipe == "merged":
            words.append(f"recipe.frequency_coefficient={self.coefficient / TO_FREQUENCY:.4g}")
        return words


def arms(options: argparse.Namespace, seconds: dict[str, float]) -> list[Arm]:
    """All decompositions: the rival's, then the merged recipe's by share, rate and coefficient.

    Args:
        seconds: of one step, by recipe.
    """
    found = [Arm("paper", *_settings(words), options.steps) for words in options.rivals]
    for share in options.shares:
        steps = round(options.steps * seconds["paper"] / seconds["merged"] / share)
        found += [
            Arm("merged", lr, coefficient, steps, share)
            for lr in options.lrs
            for coefficient in options.coefficients
        ]
    return found


def _settings(words: str) -> tuple[float, float]:
    try:
        lr, coefficient = map(float, words.split(":"))
    except ValueError:
        raise UserError(f"--rivals {words}: give lr:minimality, as {RIVALS[0]}") from None
    return lr, coefficient


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
            f"--speed {path} has no times of {rival} and merged ({error!r}): "
            "python -m benchmarks.decompose writes them"
        ) from None
    return seconds, f"{how}, load {load:.1f} beforehand"


def row(arm: Arm, record: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
    """Numbers of one decomposition; KL in nats per token of held-out text."""
    evidence = record["evidence"]
    return {
        "recipe": arm.recipe,
        "share": arm.share,
        "lr": arm.lr,
        "coefficient": arm.coefficient,
        "steps": arm.steps,
        "minutes": arm.steps * seconds[arm.recipe] / 60,
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
    for _, rival in rows[rows["recipe"] == "paper"].iterrows():
        merged = rows[rows["recipe"] == "merged"]
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
    every = [
        {
            "recipe": f"`{r['recipe']}`",
            "time": "1" if r["share"] == 1 else f"1/{r['share']:g}",
            "lr": r["lr"],
            "minimality": r["coefficient"],
            "steps": f"{r['steps']:,}",
            "minutes": f"{r['minutes']:.1f}",
            "CI-L0": f"{r['ci_l0']:.0f}",
            "alive": f"{r['alive']:,}",
            **{label: f"{r[f'kl_{name}']:.2f}" for name, label in KL.items()},
        }
        for r in rows.to_dict("records")
    ]
    compared = [
        {
            "lr of the rival": r["rival_lr"],
            "minimality": r["rival_coefficient"],
            "CI-L0": f"{r['rival_l0']:.0f}",
            "time": f"1/{r['share']:g}",
            "lr": r["lr"],
            **{label: _ratio(r[name]) for name, label in KL.items()},
        }
        for r in ratios.to_dict("records")
    ]
    names = {"reference": "the plain reference", "paper": "this package's `recipe=paper`"}
    return (
        "# Equal quality in less time\n\n"
        "Decompositions of the embedded target, each with a whole schedule of its own. KL in nats "
        "per token on held-out\ntext. Minutes: steps times the seconds of a step of "
        f"{names[rival]}\nand of the merged recipe ({how}).\n\n"
        f"{markdown(pd.DataFrame(every))}\n"
        "KL of the merged recipe divided by the rival's, at the rival's CI-L0, between its own "
        "decompositions; below 1 is better.\n–: its decompositions do not reach this CI-L0.\n\n"
        f"{markdown(pd.DataFrame(compared))}"
    )


def _ratio(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def run(options: argparse.Namespace, words: list[str]) -> list[str]:
    """Train what is missing; what is asked for whole is written, too.

    Returns:
        A line for each decomposition that failed.
    """
    for word in words:
        if word.lstrip("+~").split("=")[0] in _OWN:
            raise UserError(f"{word}: this script sets it, or it has no place in it")
    seconds, how = timings(options.speed, options.rival)
    wanted = arms(options, seconds)
    names = [arm.name for arm in wanted]
    for name in options.only or []:
        if name not in names:
            raise UserError(f"--only {name}: there are {', '.join(names)}")
    if not options.only:
        make_folder(options.out)
    rows, failures = [], []
    for arm in wanted:
        if options.only and arm.name not in options.only:
            continue
        print(arm.name, file=sys.stderr, flush=True)
        try:
            record = decomposed([*arm.words, f"out='{options.work / arm.name}'", *words], SETTINGS)
        except TrainingError as error:
            failures.append(f"{arm.name}: {error}")
            continue
        rows.append(row(arm, record, seconds))
    if failures and not options.only:
        failures.append("no comparison is written: it would lack the above")
    elif not options.only:
        frame = pd.DataFrame(rows)
        style.save(picture.draw(frame), options.out, "equal_quality")
        text = page(frame, comparison(frame), options.rival, how)
        write_text(options.out / "equal_quality.md", text)
    return failures


def main() -> None:
    """Compare, or say in one line why not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/equal_quality"))
    parser.add_argument("--out", type=Path, default=Path("results/equal_quality"))
    speed = Path("results/benchmarks/decompose_embedded.json")
    parser.add_argument("--speed", type=Path, default=speed, help="record of benchmarks.decompose")
    parser.add_argument("--rival", choices=("reference", "paper"), default="reference")
    parser.add_argument("--steps", type=int, default=1000, help="of the rival (%(default)s)")
    parser.add_argument("--shares", nargs="+", type=float, default=[5], help="(%(default)s)")
    rivals = "learning rate:minimality of each (%(default)s)"
    parser.add_argument("--rivals", nargs="+", default=RIVALS, help=rivals)
    parser.add_argument("--lrs", nargs="+", type=float, default=LRS, help="(%(default)s)")
    parser.add_argument("--coefficients", nargs="+", type=float, default=COEFFICIENTS)
    parser.add_argument("--only", nargs="+", help="names of decompositions: train no more")
    own, words = told_apart(sys.argv[1:])
    options = parser.parse_args(own)
    if options.steps < 1 or min(options.shares) <= 1:
        parser.error("--steps must be at least 1, --shares above 1")
    register_schemas()
    ended(lambda: run(options, words))


if __name__ == "__main__":
    main()
