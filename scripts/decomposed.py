"""A decomposition made unless it is there with the same settings; shared by the scripts here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra

from pd_finetune.cli import checked_config, config_folder
from pd_finetune.decompose import run
from pd_finetune.decomposition_configs import DecomposeConfig


def composed(stage: str, words: list[str]) -> Any:
    """The checked config of a stage."""
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        return checked_config(hydra.compose(stage, words))


def decomposed(words: list[str], settings: Iterable[str]) -> dict[str, Any]:
    """The record of one decomposition.

    Args:
        settings: names of config values that make two decompositions the same.
    """
    config = composed("decompose", words)
    assert isinstance(config, DecomposeConfig)
    path = Path(config.out) / "decomposition.json"
    if not path.is_file() or not _same(json.loads(path.read_text()), config, settings):
        run(config)
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def _same(record: dict[str, Any], config: DecomposeConfig, settings: Iterable[str]) -> bool:
    wanted = json.loads(json.dumps(asdict(config)))
    return all(record["config"].get(name) == wanted[name] for name in settings)
