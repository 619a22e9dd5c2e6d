"""`decomposition=train`: a decomposition of the model in use, trained and harvested once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields, replace
from pathlib import Path

from hydra.utils import instantiate

from pd_finetune import decompose, harvest
from pd_finetune.cli.compose import stage_config
from pd_finetune.decomposition.config import (
    DecomposeConfig,
    DecompositionConfig,
    TrainedDecompositionConfig,
)
from pd_finetune.decomposition.folder import RECORD, TRAINED, trained_folder
from pd_finetune.decomposition.sites import find_sites, full_rank_sites
from pd_finetune.errors import UserError
from pd_finetune.files import alone
from pd_finetune.finetuning.config import RunConfig
from pd_finetune.finetuning.experiment import finetune_run
from pd_finetune.finetuning.setting import target_of
from pd_finetune.records.record import RunRecord
from pd_finetune.runtime import prepare
from pd_finetune.selection.config import HarvestConfig
from pd_finetune.targets.load import Target

_VERSION = 1


def finetuned(config: RunConfig) -> tuple[RunRecord, Path, bool]:
    """`finetune_run` of a config whose decomposition may still have to be trained.

    Where it is, the config names the result from then on.

    Raises:
        UserError: as `finetune_run` and `trained_decomposition`.
    """
    if isinstance(config.decomposition, TrainedDecompositionConfig):
        prepare(config.threads)
        target = target_of(config)
        config.decomposition = trained_decomposition(config, config.decomposition, target)
    return finetune_run(config)


def trained_decomposition(
    config: RunConfig, settings: TrainedDecompositionConfig, target: Target
) -> DecompositionConfig:
    """The cached decomposition of these settings, trained and harvested where it is not there yet.

    The stages themselves do it, in this process: `pd_finetune.decompose`, which goes on from its
    checkpoint, and `pd_finetune.harvest`. Another process that wants the same waits.

    Raises:
        UserError: a pattern fits no matrix, the text is too short, or the window too long.
    """
    sites = dict(settings.sites) or full_rank_sites(target.model)
    find_sites(target.model, sites)
    if settings.recipe.window > target.context:
        raise UserError(
            f"decomposition.recipe.window={settings.recipe.window}: the target's context is "
            f"{target.context} tokens"
        )
    mixture = dict(settings.mixture) or dict.fromkeys(config.languages.all, 1.0)
    key = _key(config, settings, target, sites, mixture)
    named = DecompositionConfig(folder=f"{TRAINED}{key}")
    folder = trained_folder(key)
    shared = {n: getattr(config, n) for n in ("model", "languages", "device", "threads")}
    with alone(folder):
        if not (folder / RECORD).is_file():
            print(f"decomposition=train: {len(sites)} patterns of matrices into {folder}")
            own = {f.name for f in fields(DecomposeConfig)} & {f.name for f in fields(settings)}
            values = shared | {name: getattr(settings, name) for name in own}
            values |= {"sites": sites, "mixture": mixture, "out": str(folder)}
            decompose.run(replace(stage_config("decompose", DecomposeConfig, []), **values))
        if not (folder / "harvest" / "harvest.json").is_file():
            values = shared | {"decomposition": named, "rows_per_language": settings.harvest_rows}
            harvest.run(replace(stage_config("harvest", HarvestConfig, []), **values))
            print(f"for other stages: decomposition=folder decomposition.folder={named.folder}")
    return named


def _key(
    config: RunConfig,
    settings: TrainedDecompositionConfig,
    target: Target,
    sites: dict[str, int],
    mixture: dict[str, float],
) -> str:
    """What decides the result, hashed: no path, no checkpoint interval."""
    source = instantiate(config.languages.source)
    chosen = asdict(settings) | {"sites": sites, "mixture": mixture}
    for name in ("folder", "checkpoint_steps"):
        del chosen[name]
    facts = {
        "version": _VERSION,
        "target": target.hash,
        "dtype": config.model.dtype,
        "tokenizer": hashlib.sha256(target.tokenizer.to_str().encode()).hexdigest(),
        "text": {name: source.fingerprint(name) for name in config.languages.all},
        "settings": chosen,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
