"""From a composed config to the plain, validated object of its schema."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pd_finetune.cli.messages import one_line, possible
from pd_finetune.errors import UserError


def _refuse_added_keys(config: DictConfig, prefix: str = "") -> None:
    """Refuse keys that `+key=value` put beside a schema's own."""
    schema = OmegaConf.get_type(config)
    known = [f.name for f in fields(schema)] if schema and is_dataclass(schema) else None
    for key in map(str, config):
        if known is not None and key not in known:
            raise UserError(f"unknown key {prefix}{key}: {possible(key, known)}")
        child = OmegaConf.select(config, key) if key.isidentifier() else None
        if isinstance(child, DictConfig):
            _refuse_added_keys(child, f"{prefix}{key}.")


def checked_config(config: DictConfig) -> Any:
    """The plain, validated object for a composed config.

    Raises:
        UserError: a value is missing or impossible.
    """
    for key in sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{key} is missing: give {key}=...")
    try:
        _refuse_added_keys(config)
        return OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from None
