"""The checkpoint of a training: whose it is, written whole or not at all, read without code."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pd_finetune.decomposition.config import DecomposeConfig
from pd_finetune.errors import UserError
from pd_finetune.files import replacing


def identity(config: DecomposeConfig, target_hash: str, start_hash: str | None) -> str:
    """What a training must have in common with a checkpoint to go on from it, as JSON.

    Args:
        start_hash: of the decomposition that the training began with; None: a fit to the weights.
    """
    values = asdict(config)
    text = "mixture" if config.toy is None else "toy"
    kept = ("sites", "recipe", "ci_function", "initial", "initial_tokens", text, "seed")
    found = {"target": target_hash, "start": start_hash, **{name: values[name] for name in kept}}
    return json.dumps(found, sort_keys=True)


def write_checkpoint(path: Path, own: str, state: dict[str, Any]) -> None:
    """Write the state of the training that `own` identifies, atomically."""
    with replacing(path) as temporary:
        torch.save({"identity": own, **state}, temporary)


def read_checkpoint(path: Path, own: str, device: torch.device) -> dict[str, Any]:
    """The state of the training that `own` identifies.

    Raises:
        UserError: the file is broken, or is of another training.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot read checkpoint '{path}' ({reason}): delete it") from None
    if state.get("identity") != own:
        raise UserError(
            f"checkpoint '{path}' is of another target or configuration: "
            "give another out=, or delete it"
        )
    return state
