"""What makes a run this run and no other, known from files: a finished one needs no model.

Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from pd_finetune.cache import source_sha256
from pd_finetune.decomposition.folder import stored_hash
from pd_finetune.errors import UserError
from pd_finetune.finetuning.config import RunConfig
from pd_finetune.goodfire.labels import Label, labels_sha256, read_labels
from pd_finetune.loading.folders import decomposition_folder, model_folder, remembered_hash
from pd_finetune.records.directory import RunDirectory
from pd_finetune.records.record import Hashes, RunRecord
from pd_finetune.targets.keys import SubcomponentKey

labels_of = lru_cache(maxsize=1)(read_labels)


def published_labels(config: RunConfig) -> dict[SubcomponentKey, Label] | None:
    """Labels that somebody else wrote, where the selection goes by them."""
    place = getattr(config.decomposition, "labels", None)
    return labels_of(place) if place and config.selection.reads_labels else None


def stored_hashes(config: RunConfig) -> Hashes | None:
    """Hashes of target, decomposition and text as their files stand; None where one is not known.

    A target's hash is known once it was loaded, see `targets.folder.remember_hash`.
    """
    try:
        target = remembered_hash(model_folder(config.model.folder), config.model.dtype)
        decomposition = stored_hash(decomposition_folder(config.decomposition.folder))
        source = instantiate(config.languages.source)
        text = {name: source.fingerprint(name) for name in config.languages.all}
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None  # who loads them will say what is wrong
    return Hashes(target, decomposition, text) if target and decomposition else None


def run_directory(config: RunConfig, hashes: Hashes) -> RunDirectory:
    """The directory of a run, named after its config and everything that goes into it."""
    identity: dict[str, Any] = asdict(hashes)
    # the same weights with another tokenizer read another text
    identity["tokenizer"] = source_sha256(model_folder(config.model.folder) / "tokenizer.json")
    if labels := published_labels(config):
        # other labels may select another subcomponent
        identity["labels"] = labels_sha256(labels)
    root = Path(config.paths.runs).expanduser()
    return RunDirectory(root, config.arm.name, config.budget, config.seed, asdict(config), identity)


def finished_run(config: RunConfig) -> tuple[RunRecord, Path] | None:
    """The record of a run that is done already, and its directory, without loading anything.

    None where it is not done, or where only loading can tell.

    Raises:
        UserError: its directory holds another config.
    """
    hashes = stored_hashes(config)
    if hashes is None:
        return None
    directory = run_directory(config, hashes)
    done = directory.finished_record()
    return (done, directory.path) if done else None
