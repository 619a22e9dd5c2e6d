"""The front: decompositions of the embedded target at several minimality coefficients.

    python scripts/front.py --work runs/front --out results/decomposition [key=value ...]

Each is trained (`experiment=front`) and measured by `pd_finetune.quality` on held-out text. What is
finished with the same settings is not done again, a killed training goes on from its checkpoint,
and a failure is named at the end while the others go on. `--only` does a part of the work, for
several cores or machines over one folder. Words at the end reach every decomposition; those on
model, languages, device and threads its measurement as well.

Writes front.csv (a row per decomposition), curves.csv (a row per decomposition and logged window of
its training), their pictures, and front.md: the table, the rule, and which one it chooses.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from decomposed import composed, decomposed, ended, told_apart

from pd_finetune import quality
from pd_finetune.errors import TrainingError, UserError
from pd_finetune.files import make_folder, write_text
from pd_finetune.plots import style
from pd_finetune.plots.evidence import convergence, front

COEFFICIENTS = [1e-4, 1.8e-4, 3e-4, 5.6e-4, 1e-3]
TO_FREQUENCY = 3  # the frequency coefficient is the minimality coefficient by this
RUNGS = [20, 40, 80]  # steps of the fresh adversary
SHARED = ("model", "languages", "device", "threads")  # keys that the measurement reads too
# what makes two decompositions the same, beside the start's weights
SETTINGS = ("model", "sites", "mixture", "recipe", "ci_function", "initial", "start_from", "seed")
SETTLED = 0.2  # of the training, at its end, over which a change is stated
MOST_KL_SHARE = 0.02  # of the rule, see `choose`
COLUMNS = {
    "coefficient": "minimality",
    "frequency": "frequency",
    "ci_l0": "CI-L0",
    "ci_l0_above_0.1": "above 0.1",
    "alive": "alive",
    "kl_unmasked": "KL unmasked",
    "kl_stochastic": "stochastic",
    "kl_ci_masked": "CI-masked",
    "kl_rounded": "rounded",
    "kl_fresh_20": "fresh 20",
    "kl_fresh_40": "fresh 40",
    "kl_fresh_80": "fresh 80",
    "change_ci_l0": "change of L0",
    "change_adversarial_kl_nats": "of adversarial KL",
}


def point(coefficient: float, work: Path, words: list[str]) -> tuple[dict[str, Any], pd.DataFrame]:
    """One decomposition's row of the front and its training curve, made where they are missing."""
    folder = work / f"m{coefficient:g}"
    own = [
        "experiment=front",
        f"recipe.minimality_coefficient={coefficient}",
        f"recipe.frequency_coefficient={coefficient / TO_FREQUENCY}",
        f"out='{folder}'",
    ]
    record = decomposed([*own, *words], SETTINGS)
    evidence = measured(folder, [word for word in words if _key(word).split(".")[0] in SHARED])
    curve = pd.DataFrame(record["history"]).assign(coefficient=coefficient)
    row = {"coefficient": coefficient, **numbers_of(evidence)}
    row |= {f"change_{name}": change(curve, name) for name in ("ci_l0", "adversarial_kl_nats")}
    frequency = record["config"]["recipe"]["frequency_coefficient"]
    return row | {"frequency": frequency, "steps": int(curve["step"].iloc[-1])}, curve


def _key(word: str) -> str:
    return word.lstrip("+~").split("=")[0].split("@")[0].strip()


def measured(folder: Path, words: list[str]) -> dict[str, Any]:
    """The evidence record of a decomposition's folder, measured where it is missing."""
    out = folder / "quality"
    ladder = f"adversary={{rungs: {RUNGS}, restarts: 1, site_steps: 1}}"
    decomposition = ["decomposition=folder", f"decomposition.folder='{folder}'"]
    quality.run(composed("quality", [*words, *decomposition, f"out='{out}'", ladder]))
    record: dict[str, Any] = json.loads((out / quality.RECORD).read_text())
    return record


def numbers_of(evidence: dict[str, Any]) -> dict[str, Any]:
    """The scalars of an evidence record that stand in the table."""
    kl = {f"kl_{name}": row["nats"] for name, row in evidence["kl"].items()}
    fresh = {f"kl_fresh_{rung['steps']}": rung["nats"] for rung in evidence["adversary"]["rungs"]}
    counts = {name: evidence[name] for name in ("ci_l0", "ci_l0_above_0.1", "alive")}
    return counts | kl | fresh


def change(curve: pd.DataFrame, name: str) -> float:
    """Relative change between the two halves of the last fifth of a training; NaN: too short."""
    if name not in curve:
        return float("nan")
    last = curve[curve["step"] > (1 - SETTLED) * curve["step"].max()][name].to_numpy()
    first, second = last[: len(last) // 2], last[len(last) // 2 :]
    return float(second.mean() / first.mean() - 1) if len(first) else float("nan")


def choose(points: pd.DataFrame) -> float | None:
    """The rule: the sparsest whose stochastic KL is at most 2 % of the zero-masked one's."""
    good = points[points["kl_stochastic"] <= MOST_KL_SHARE * points["kl_zero"]]
    if good.empty:
        return None
    return float(good.sort_values("ci_l0")["coefficient"].iloc[0])


def page(points: pd.DataFrame, chosen: float | None) -> str:
    """The table, least coefficient first."""
    head = list(COLUMNS.values())
    lines = [head, ["---:"] * len(head)]
    for _, row in points.sort_values("coefficient").iterrows():
        cells = [_cell(name, row[name]) for name in COLUMNS]
        if row["coefficient"] == chosen:
            cells = [f"**{cell}**" for cell in cells]
        lines.append(cells)
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    steps = ", ".join(f"{s:,}" for s in sorted(set(points["steps"])))
    return (
        "# Sparsity against reconstruction\n\n"
        f"One decomposition of the embedded target per minimality coefficient, {steps} steps each. "
        "KL in nats per token on\nheld-out text, all "
        f"sites masked (zero-masked: {points['kl_zero'].mean():.1f}, random masks: "
        f"{points['kl_random'].min():.2f} to {points['kl_random'].max():.2f}). *Fresh n*:\nthe "
        "adversary's shared source after n sign steps from one random start.\n*Change*: relative, "
        "between the two halves of the last fifth of the training.\n\n"
        f"{table}\nRule: the sparsest whose stochastic KL is at most {MOST_KL_SHARE:.0%} of the "
        f"zero-masked KL. It chooses {'none' if chosen is None else f'{chosen:g}'}.\n"
    )


def _cell(name: str, value: float) -> str:
    if pd.isna(value):
        return "–"
    if name.startswith("change"):
        return f"{value:+.1%}"
    if name == "alive":
        return f"{int(value):,}"
    if name.startswith("ci_l0"):
        return f"{value:.0f}"
    if name in ("coefficient", "frequency"):
        return f"{value:g}" if name == "coefficient" else f"{value:.2g}"
    return f"{value:.2g}" if name == "kl_unmasked" else f"{value:.3g}"


def main() -> None:
    """Train and measure what is missing, then write what there is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/front"), help="decompositions")
    parser.add_argument("--out", type=Path, default=Path("results/decomposition"))
    parser.add_argument("--coefficients", nargs="+", type=float, default=COEFFICIENTS)
    parser.add_argument("--only", nargs="+", type=float, help="of these, train and measure no more")
    own, words = told_apart(sys.argv[1:])
    options = parser.parse_args(own)
    register_schemas()
    ended(lambda: run(options, words))


def run(options: argparse.Namespace, words: list[str]) -> list[str]:
    """Train and measure what is missing; what is asked for whole is written, too.

    Returns:
        A line for each decomposition that failed.
    """
    own = {"out", "recipe.minimality_coefficient", "recipe.frequency_coefficient"}
    for word in words:
        if _key(word) in own:
            raise UserError(f"{word}: this script sets it, by --work and --coefficients")
    strangers = [c for c in options.only or [] if c not in options.coefficients]
    if strangers:
        raise UserError(f"--only {strangers[0]:g}: --coefficients are {options.coefficients}")
    out = make_folder(options.out)
    rows, curves, failures = [], [], []
    for coefficient in options.only or options.coefficients:
        print(f"minimality {coefficient:g}", file=sys.stderr, flush=True)
        try:
            row, curve = point(coefficient, options.work, words)
        except (UserError, TrainingError) as error:
            failures.append(f"minimality {coefficient:g}: {error}")
            continue
        rows.append(row)
        curves.append(curve)
    if failures and not options.only:
        failures.append("the front is not written: it would lack the above")
    elif not options.only:
        _write(pd.DataFrame(rows), pd.concat(curves, ignore_index=True), out)
    return failures


def _write(points: pd.DataFrame, curves: pd.DataFrame, out: Path) -> None:
    chosen = choose(points)
    points = points.sort_values("coefficient", ignore_index=True)
    style.save(front.draw(points, chosen), out, "front")
    style.save(convergence.draw(curves, "coefficient"), out, "curves")
    write_text(out / "front.md", page(points, chosen))


if __name__ == "__main__":
    main()
