"""Decompose the matrices of a language model or a toy: `python -m pd_finetune.decompose`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pd_finetune.decomposition.config import DecomposeConfig
from pd_finetune.main import stage_main

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pd_finetune.decomposition.decomposition import Decomposition
    from pd_finetune.targets.load import Target
    from pd_finetune.targets.readout import Decomposable

_NOT_READ_BY_TOYS = ("model", "languages", "mixture")


def run(config: DecomposeConfig) -> Path:
    """Train (or go on training) a decomposition and write it with its evidence.

    A toy is trained first, where it is not there yet; its decomposition is compared with the truth.
    """
    from dataclasses import asdict

    from pd_finetune.decomposition.decomposition import Decomposition
    from pd_finetune.decomposition.evidence.battery import battery, summary
    from pd_finetune.decomposition.evidence.report import print_record
    from pd_finetune.decomposition.memory import memory_line
    from pd_finetune.decomposition.store import save_decomposition
    from pd_finetune.decomposition.trainer import Trainer
    from pd_finetune.distributed import local_device, workers
    from pd_finetune.files import make_folder
    from pd_finetune.plots import style
    from pd_finetune.plots.toys import directions
    from pd_finetune.records.environment import versions
    from pd_finetune.runtime import device_of, prepare
    from pd_finetune.toys.model import ToyTarget
    from pd_finetune.toys.report import against_truth, importances, print_truth
    from pd_finetune.toys.training import toy_task

    prepare(config.threads)
    device = local_device(device_of(config.device))
    team = workers(device)
    out = make_folder(Path(config.out).expanduser())
    recipe, start = config.recipe, None
    target: Decomposable
    if config.toy is not None:
        rows = config.quality.rows_per_language
        target, batch_at, held_out, about = toy_task(
            config.toy, recipe, rows, config.seed, out, device, save=team.is_main
        )
    else:
        target, batch_at, held_out, about = _text_task(config, device)
        start = _start(config, target, out)
    trainer = Trainer(target, config, batch_at, out, team, start)
    del start  # its tensors are copied
    components, ci_function = trainer.components, trainer.ci_function
    if isinstance(target, ToyTarget):
        at_start = against_truth(
            target, components, importances(target, components, ci_function, held_out)
        )
    elif team.is_main:
        print(memory_line(trainer.memory_bytes()), flush=True)
    trainer.train()
    if not team.is_main:
        return out
    # the stored function is of 16 bits, and the evidence should be about what is stored
    ci_function.half().float()
    found = battery(
        target,
        Decomposition(components, ci_function, recipe.window),
        held_out,
        rungs=[config.quality.adversary_steps],
        step=config.quality.adversary_step,
        batch=len(held_out),
    )
    record: dict[str, Any] = {
        "config": asdict(config) | {"out": out.name},
        "start_hash": trainer.start_hash,
        "training_tokens": trainer.step * recipe.rows * recipe.window,
        "seconds": round(trainer.seconds, 1),
        **about,
        "evidence": summary(found, target.readout.term),
        "history": trainer.history,
        "versions": versions(),
    }
    if isinstance(target, ToyTarget):
        for name in _NOT_READ_BY_TOYS:
            del record["config"][name]
        ci = importances(target, components, ci_function, held_out)
        record |= {"truth": against_truth(target, components, ci), "truth_at_start": at_start}
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
    if isinstance(target, ToyTarget):
        print_truth(record)
    else:
        print_record(found)
    return out


def _text_task(
    config: DecomposeConfig, device: torch.device
) -> tuple[Target, Callable[[int], Tensor], Tensor, dict[str, Any]]:
    """The target, its batches by step, held-out windows for the evidence, and the text's record.

    Raises:
        UserError: parts are missing, or a language has too little text.
    """
    import numpy as np
    import torch
    from hydra.utils import instantiate

    from pd_finetune.errors import UserError
    from pd_finetune.loading.target import load_target
    from pd_finetune.text.mixture import mixed_windows
    from pd_finetune.text.tokens import token_stream, windows

    target = load_target(config.model.folder, device, config.model.dtype)
    source, recipe = instantiate(config.languages.source), config.recipe
    batch_at = mixed_windows(
        target.tokenizer, source, config.mixture, recipe.rows, recipe.window, config.seed
    )
    rows = []
    for name in config.mixture:
        stream = token_stream(target.tokenizer, source, name, "validation")
        rows.append(windows(stream, config.quality.rows_per_language, recipe.window))
        # looked at before the training, not after hours of it
        if len(rows[-1]) == 0:
            raise UserError(
                f"'{name}' has no validation text of {recipe.window} tokens for the evidence: "
                "give some, or a shorter recipe.window"
            )
    held_out = torch.from_numpy(np.concatenate(rows)).to(target.device)
    return target, batch_at, held_out, {"text": {n: source.fingerprint(n) for n in config.mixture}}


def _start(config: DecomposeConfig, target: Decomposable, out: Path) -> Decomposition | None:
    """The decomposition that `start_from` names.

    Raises:
        UserError: there is none, it is of another target, or it stands where the new one goes.
    """
    from pd_finetune.errors import UserError
    from pd_finetune.loading.decomposition import load_decomposition
    from pd_finetune.loading.folders import decomposition_folder

    if config.start_from is None:
        return None
    if decomposition_folder(config.start_from, "start_from").resolve() == out.resolve():
        raise UserError(
            f"start_from={config.start_from} is the folder that the new one goes to: "
            "give another out="
        )
    return load_decomposition(config.start_from, target, "start_from")


if __name__ == "__main__":
    stage_main("decompose", DecomposeConfig, run)
