"""Decomposing a toy: train it, decompose it with the common trainer, compare with the truth."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from pd_finetune.decomposition.config import DecomposeConfig
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.evidence.battery import battery, summary
from pd_finetune.decomposition.store import save_decomposition
from pd_finetune.decomposition.trainer import Trainer
from pd_finetune.distributed import Workers
from pd_finetune.plots import style
from pd_finetune.plots.toys import directions
from pd_finetune.records.environment import versions
from pd_finetune.toys.report import against_truth, importances, print_truth
from pd_finetune.toys.training import DECOMPOSITION, HELD_OUT, inputs_of, trained_toy

NOT_READ = ("model", "languages", "mixture")  # by a toy's decomposition


def decompose_toy(config: DecomposeConfig, device: torch.device, team: Workers, out: Path) -> Path:
    """Write the toy, its decomposition, a record with `truth`, and the picture of directions."""
    assert config.toy is not None
    recipe, inputs = config.recipe, inputs_of(config.toy, config.seed)
    target, training = trained_toy(config.toy, config.seed, out, device, save=team.is_main)
    rows = config.quality.rows_per_language
    held_out = inputs.batch(HELD_OUT, 0, rows, recipe.window).to(device)

    def batch_at(step: int) -> torch.Tensor:
        return inputs.batch(DECOMPOSITION, step, recipe.rows, recipe.window)

    trainer = Trainer(target, config, batch_at, out, team)
    components, ci_function = trainer.components, trainer.ci_function
    ci = importances(target, components, ci_function, held_out)
    start = against_truth(target, components, ci)
    trainer.train()
    if not team.is_main:
        return out
    # the stored function is of 16 bits, and the evidence should be about what is stored
    ci_function.half().float()
    ci = importances(target, components, ci_function, held_out)
    found = battery(
        target,
        Decomposition(components, ci_function, recipe.window),
        held_out,
        rungs=[config.quality.adversary_steps],
        step=config.quality.adversary_step,
        batch=len(held_out),
        progress=False,
    )
    written = asdict(config) | {"out": out.name}
    record = {
        "config": {name: value for name, value in written.items() if name not in NOT_READ},
        "toy": {"name": config.toy.name, **training},
        "training_tokens": trainer.step * recipe.rows * recipe.window,
        "seconds": round(trainer.seconds, 1),
        "truth": against_truth(target, components, ci),
        "truth_at_start": start,
        "evidence": summary(found, target.readout.term),
        "history": trainer.history,
        "versions": versions(),
    }
    alive = {name: mean for name, (mean, _) in ci.items()}
    style.save(directions.draw(target, components, alive), out, "directions")
    save_decomposition(
        out,
        components,
        ci_function,
        trainer.reads,
        config.ci_function,
        recipe.window,
        target,
        record,
    )  # last: its record says that the rest is there
    print_truth(record)
    return out
