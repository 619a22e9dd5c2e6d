"""Tune learning rate and KL weight of one arm on validation text: the same trials for every arm.

    python scripts/tune.py --arm one_scalar --out results/embedded/tuning

Every trial is a full fine-tune at each budget with samples that no reported run draws (other
seeds), scored on validation text: nats short of chance on the target language, plus ten times what
English damage exceeds 0.10 nats, averaged. All trials are kept in <out>/<arm>.csv; a trial that is
there already is not done again.
"""

import argparse
import csv
import itertools
from pathlib import Path
from typing import Any

import hydra

from pd_finetune.cli import checked_config, config_folder
from pd_finetune.config_store import register_schemas

LR = {
    "one_scalar": (0.1, 0.2, 0.4, 0.8),
    "top16": (0.2, 0.4, 0.8, 1.6),
    "lora_r1": (6e-3, 2e-2, 6e-2, 2e-1),
    "lora_r4": (6e-3, 2e-2, 6e-2, 2e-1),
    "localized_lora": (6e-3, 2e-2, 6e-2, 2e-1),
}
KL_WEIGHT = (0.3, 1.0, 3.0, 10.0, 30.0)
DAMAGE_LIMIT_NATS, DAMAGE_WEIGHT = 0.10, 10.0
FIELDS = ("arm", "lr", "kl_weight", "budget", "seed", "to_chance_nats", "english_damage_nats")


def score(rows: list[dict[str, Any]]) -> float:
    """Mean over runs of nats short of chance + 10 * (English damage over 0.10); lower is better."""
    parts = [
        max(0.0, float(row["to_chance_nats"]))
        + DAMAGE_WEIGHT * max(0.0, float(row["english_damage_nats"]) - DAMAGE_LIMIT_NATS)
        for row in rows
    ]
    return sum(parts) / len(parts)


def trial(overrides: list[str]) -> tuple[float, float]:
    """(to chance, English damage) in nats of one fine-tune, on validation text."""
    from pd_finetune.finetuning.experiment import Prepared, load_setting

    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        composed = hydra.compose("config", overrides)
    config = checked_config(composed)
    prepared = Prepared.of(config, load_setting(config))
    prepared.finetune()
    found = prepared.evaluate()
    target = config.languages.target
    to_chance = prepared.setting.target.chance_nats - found.edited_ce_nats[target]
    return to_chance, found.damage_nats[config.languages.preserve[0]]


def main() -> None:
    """Run the trials of one arm that are missing, and print all settings, best first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", choices=sorted(LR), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budgets", type=int, nargs="+", default=[4, 64])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000, 1001])
    parser.add_argument("overrides", nargs="*", help="further overrides, as for pd_finetune.run")
    options = parser.parse_args()
    register_schemas()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.arm}.csv"
    rows: list[dict[str, Any]] = []
    if path.is_file():
        with open(path, newline="") as handle:
            rows = list(csv.DictReader(handle))
    done = {tuple(str(row[name]) for name in FIELDS[:5]) for row in rows}
    grid = itertools.product(LR[options.arm], KL_WEIGHT, options.budgets, options.seeds)
    with open(path, "a", newline="") as handle:
        writer = csv.DictWriter(handle, FIELDS)
        if not rows:
            writer.writeheader()
        for lr, kl_weight, budget, seed in grid:
            names = (options.arm, lr, kl_weight, budget, seed)
            if tuple(map(str, names)) in done:
                continue
            to_chance, damage = trial(
                [
                    f"arm={options.arm}",
                    "evaluation=fast",
                    "logger=none",
                    "languages.all=[de,en]",
                    "progress=false",
                    f"method.lr={lr}",
                    f"method.kl_weight={kl_weight}",
                    f"budget={budget}",
                    f"seed={seed}",
                    *options.overrides,
                ]
            )
            row = dict(zip(FIELDS, (*names, to_chance, damage), strict=True))
            rows.append(row)
            writer.writerow(row)
            handle.flush()
            print(*names, f"to chance {to_chance:.2f}, English {damage:+.3f}", flush=True)
    settings: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        settings.setdefault((str(row["lr"]), str(row["kl_weight"])), []).append(row)
    for (lr, kl), group in sorted(settings.items(), key=lambda item: score(item[1])):
        print(
            f"{options.arm}: lr {lr}, kl_weight {kl}: score {score(group):.3f} ({len(group)} runs)"
        )


if __name__ == "__main__":
    main()
