"""Decompose the matrices of a language model or a toy: `python -m pd_finetune.decompose`."""

from pathlib import Path

from pd_finetune.decomposition.config import DecomposeConfig
from pd_finetune.main import stage_main


def run(config: DecomposeConfig) -> Path:
    """Train (or go on training) a decomposition and write it with its evidence."""
    from dataclasses import asdict

    import numpy as np
    import torch
    from hydra.utils import instantiate

    from pd_finetune.decomposition.decomposition import Decomposition
    from pd_finetune.decomposition.evidence.battery import battery, summary
    from pd_finetune.decomposition.evidence.report import print_record
    from pd_finetune.decomposition.memory import memory_line
    from pd_finetune.decomposition.store import save_decomposition
    from pd_finetune.decomposition.trainer import Trainer
    from pd_finetune.distributed import local_device, workers
    from pd_finetune.errors import UserError
    from pd_finetune.files import make_folder
    from pd_finetune.loading.decomposition import load_decomposition
    from pd_finetune.loading.folders import decomposition_folder
    from pd_finetune.loading.target import load_target
    from pd_finetune.records.environment import versions
    from pd_finetune.runtime import device_of, prepare
    from pd_finetune.text.mixture import mixed_windows
    from pd_finetune.text.tokens import token_stream, windows

    prepare(config.threads)
    device = local_device(device_of(config.device))
    team = workers(device)
    out = make_folder(Path(config.out).expanduser())
    if config.toy is not None:
        from pd_finetune.toys.run import decompose_toy

        return decompose_toy(config, device, team, out)
    target = load_target(config.model.folder, device, config.model.dtype)
    start = None
    if config.start_from is not None:
        if decomposition_folder(config.start_from, "start_from").resolve() == out.resolve():
            raise UserError(
                f"start_from={config.start_from} is the folder that the new one goes to: "
                "give another out="
            )
        start = load_decomposition(config.start_from, target, "start_from")
    source = instantiate(config.languages.source)
    recipe = config.recipe
    batches = mixed_windows(
        target.tokenizer, source, config.mixture, recipe.rows, recipe.window, config.seed
    )
    rows = {
        name: windows(
            token_stream(target.tokenizer, source, name, "validation"),
            config.quality.rows_per_language,
            recipe.window,
        )
        for name in config.mixture
    }
    # looked at before the training, not after hours of it
    for name, found in rows.items():
        if len(found) == 0:
            raise UserError(
                f"'{name}' has no validation text of {recipe.window} tokens for the evidence: "
                "give some, or a shorter recipe.window"
            )
    ids = torch.from_numpy(np.concatenate(list(rows.values()))).to(target.model.device)
    trainer = Trainer(target, config, batches, out, team, start)
    del start  # its tensors are copied
    if team.is_main:
        print(memory_line(trainer.memory_bytes()), flush=True)
    trainer.train()
    if not team.is_main:
        return out
    # the stored function is of 16 bits, and the evidence should be about what is stored
    trainer.ci_function.half().float()
    found = battery(
        target,
        Decomposition(trainer.components, trainer.ci_function, recipe.window),
        ids,
        rungs=[config.quality.adversary_steps],
        step=config.quality.adversary_step,
        batch=len(ids),
    )
    save_decomposition(
        out,
        trainer.components,
        trainer.ci_function,
        trainer.reads,
        config.ci_function,
        recipe.window,
        target,
        {
            "config": asdict(config) | {"out": out.name},
            "start_hash": trainer.start_hash,
            "training_tokens": trainer.step * recipe.rows * recipe.window,
            "seconds": round(trainer.seconds, 1),
            "text": {name: source.fingerprint(name) for name in config.mixture},
            "evidence": summary(found, target.readout.term),
            "history": trainer.history,
            "versions": versions(),
        },
    )
    print_record(found)
    return out


if __name__ == "__main__":
    stage_main("decompose", DecomposeConfig, run)
