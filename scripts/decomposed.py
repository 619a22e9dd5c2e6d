"""A decomposition made unless it is there with the same settings; shared by the scripts here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from pd_finetune.cli_messages import one_line

from pd_finetune.cli import stage_config
from pd_finetune.decompose import run
from pd_finetune.decomposition.config import DecomposeConfig
from pd_finetune.decomposition.folder import decomposition_folder, stored_hash
from pd_finetune.errors import UserError
from pd_finetune.files import alone


def told_apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """A script's own options, and the words for Hydra: `key=value`, `+key=value`, `~key`."""
    own, words = [], []
    for argument in arguments:
        hydras = argument[0:1] in ("+", "~") or ("=" in argument and not argument.startswith("-"))
        (words if hydras else own).append(argument)
    return own, words


def composed(stage: str, words: list[str]) -> Any:
    """The checked config of a stage.

    Raises:
        UserError: a word names no key, or its value doesn't fit.
    """
    try:
        return stage_config(stage, words)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error)) from None


def decomposed(words: list[str], settings: Iterable[str]) -> dict[str, Any]:
    """The record of one decomposition; another process that wants the same waits.

    Args:
        settings: names of config values that make two decompositions the same. What it starts from
            must have the same weights as well.

    Raises:
        UserError: a word is wrong, or parts are missing or do not belong together.
        TrainingError: a term is not finite.
    """
    config = composed("decompose", words)
    assert isinstance(config, DecomposeConfig)
    path = Path(config.out) / "decomposition.json"
    with alone(path.parent):
        if not path.is_file() or not _same(json.loads(path.read_text()), config, settings):
            run(config)
        record: dict[str, Any] = json.loads(path.read_text())
    return record


def ended(work: Callable[[], list[str]]) -> NoReturn:
    """Do a script's work and end: a line on stderr for a user's mistake (exit code 2), or for each
    failure that the work returns (1)."""
    try:
        failures = work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


def _same(record: dict[str, Any], config: DecomposeConfig, settings: Iterable[str]) -> bool:
    wanted = json.loads(json.dumps(asdict(config)))
    if any(record["config"].get(name) != wanted[name] for name in settings):
        return False
    if config.start_from is None:
        return True
    return record["start_hash"] == stored_hash(decomposition_folder(config.start_from))
