"""Foreign files, read without running anything of theirs: tensors, YAML, the latest checkpoint."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from pd_finetune.errors import UserError

_SUFFIXES = (".safetensors", ".pth", ".pt")  # at equal steps the first is taken


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step: `model*_<step>.pt`, `.pth` or `.safetensors`."""
    found = []
    for path in folder.glob("model*"):
        match = re.search(r"(\d+)$", path.stem)
        if path.suffix in _SUFFIXES and path.is_file() and match:
            found.append((int(match[1]), -_SUFFIXES.index(path.suffix), path))
    return max(found)[2] if found else None


def is_checkpoint(path: Path) -> bool:
    """Whether the path is a file with a checkpoint's suffix."""
    return path.suffix in _SUFFIXES and path.is_file()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, memory-mapped, so that a file of gigabytes is not read at once.

    Raises:
        UserError: the file is damaged, or holds anything but tensors by name.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            # a file from before torch 1.6 is no zip archive and can't be mapped
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"'{path}' holds more than tensors, and no code of a checkpoint is run: "
            "save its state dict alone, or convert it to safetensors"
        ) from None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"cannot read checkpoint '{path}': {reason}") from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise UserError(f"checkpoint '{path}' is no state dict: tensors by name are needed")
    return dict(state)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping, plain types only.

    Raises:
        UserError: it is missing, or holds no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot read '{path}': {reason}") from None
    if not isinstance(values, dict):
        raise UserError(f"'{path}' holds no mapping of names to values")
    return values


def require_shapes(
    tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]], where: Path
) -> None:
    """Refuse tensors whose names or shapes are not just the expected ones.

    Raises:
        UserError: one is missing, too many, or of another shape.
    """
    missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unknown:
        parts = [f"{', '.join(missing[:3])} missing"] if missing else []
        parts += [f"{', '.join(unknown[:3])} unknown"] if unknown else []
        raise UserError(
            f"checkpoint '{where}' does not fit its configuration: {'; '.join(parts)} "
            f"({len(missing)} missing, {len(unknown)} unknown in all)"
        )
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise UserError(
                f"checkpoint '{where}': {name} has shape {list(tensors[name].shape)}, "
                f"its configuration says {list(shape)}"
            )
