"""What studies of several decompositions share: all trained into one folder, each of them once."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import MISSING
from omegaconf.errors import OmegaConfBaseException

from pd_finetune import decompose
from pd_finetune.cli.compose import stage_config
from pd_finetune.cli.messages import one_line
from pd_finetune.decomposition.config import DecomposeConfig
from pd_finetune.decomposition.folder import RECORD, stored_hash
from pd_finetune.errors import TrainingError, UserError
from pd_finetune.files import alone
from pd_finetune.loading.folders import decomposition_folder
from pd_finetune.schema import Checked, one_of

# of a decomposition's config, what makes two of them the same, beside the weights that one began at
_SETTINGS = (
    *("toy", "model", "languages", "mixture", "sites", "recipe", "ci_function", "quality"),
    *("initial", "initial_tokens", "start_from", "seed"),
)


@dataclass
class TrainingsConfig(Checked):
    """Several decompositions and what is written of them."""

    decompose: list[str] = MISSING  # words of python -m pd_finetune.decompose, for every one
    only: list[str] = MISSING  # names: these alone are trained, and nothing is written; []: all
    work: str = MISSING  # a folder; each decomposition's own is in it
    out: str = MISSING


def composed(stage: str, schema: Any, words: list[str]) -> Any:
    """The checked config of a stage.

    Raises:
        UserError: a word cannot be read, names no key, or its value doesn't fit.
    """
    try:
        return stage_config(stage, schema, words)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error)) from None


def train_all(
    config: TrainingsConfig, wanted: Mapping[str, list[str]]
) -> dict[str, dict[str, Any]]:
    """Records by name; a decomposition that is there with the same settings is not made again.

    A killed training goes on from its checkpoint; another process at the same one is waited for. A
    failure is said on stderr, and the others go on.

    Args:
        wanted: by name of a decomposition, the words that make it this one.

    Raises:
        UserError: a word is wrong or sets what the study sets, or `config.only` names another.
        TrainingError: some failed.
    """
    _refuse_own(config.decompose, {word for words in wanted.values() for word in words})
    for name in config.only:
        one_of("only", name, tuple(wanted))
    configs: dict[str, DecomposeConfig] = {}
    for name in config.only or wanted:  # a wrong word is said before the first hours
        out = f"out='{Path(config.work).expanduser() / name}'"
        words = [*wanted[name], out, *config.decompose]
        configs[name] = composed("decompose", DecomposeConfig, words)
    records, failed = {}, []
    for name, training in configs.items():
        print(name, file=sys.stderr, flush=True)
        try:
            records[name] = _decomposed(training)
        except (UserError, TrainingError) as error:
            print(f"error: {name}: {error}", file=sys.stderr, flush=True)
            failed.append(name)
    if failed:
        raise TrainingError(f"nothing is written: it would lack {', '.join(failed)}, see above")
    return records


def _refuse_own(given: list[str], own: set[str]) -> None:
    parse = OverridesParser.create().parse_overrides
    try:
        keys = {override.key_or_group for override in parse(sorted(own))} | {"out"}
        for override in parse(given):
            if override.key_or_group in keys:
                raise UserError(
                    f"decompose: {override.input_line}: this study sets it, or it has no place here"
                )
    except HydraException as error:
        raise UserError(f"decompose: {one_line(error)}") from None


def _decomposed(config: DecomposeConfig) -> dict[str, Any]:
    path = Path(config.out) / RECORD
    with alone(path.parent):
        if not path.is_file() or not _same(json.loads(path.read_text()), config):
            decompose.run(config)
        record: dict[str, Any] = json.loads(path.read_text())
    return record


def _same(record: dict[str, Any], config: DecomposeConfig) -> bool:
    """Whether a record is of these settings; a toy's says nothing of what it doesn't read."""
    wanted, made = json.loads(json.dumps(asdict(config))), record["config"]
    if any(made[name] != wanted[name] for name in _SETTINGS if name in made):
        return False
    if config.start_from is None:
        return True
    return bool(record["start_hash"] == stored_hash(decomposition_folder(config.start_from)))
