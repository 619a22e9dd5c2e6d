"""Foreign checkpoints, read without running anything of theirs: the latest, and its tensors."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path

from torch import Tensor

from pd_finetune.errors import UserError, first_line

_SUFFIXES = (".safetensors", ".pth", ".pt")  # at equal steps the first is taken


def latest_checkpoint(names: list[str]) -> str | None:
    """The checkpoint of the highest step: `model*_<step>.pt`, `.pth` or `.safetensors`."""
    found = []
    for name in names:
        match = re.fullmatch(r"model\w*_(\d+)(\.\w+)", name)
        if match and match[2] in _SUFFIXES:
            found.append((int(match[1]), -_SUFFIXES.index(match[2]), name))
    return max(found)[2] if found else None


def checkpoint_at(place: Path) -> Path | None:
    """The checkpoint that a path is, or the latest one in a folder."""
    if place.is_file():
        return place if place.suffix in _SUFFIXES else None
    names = [path.name for path in place.glob("model*") if path.is_file()]
    latest = latest_checkpoint(names)
    return place / latest if latest else None


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
        # a file from before torch 1.6 is no zip archive and can't be mapped
        archive = _is_whole_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError:
        raise UserError(
            f"'{path}' holds more than tensors, and no code of a checkpoint is run: "
            "save its state dict alone, or convert it to safetensors"
        ) from None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError) as error:
        raise UserError(f"cannot read checkpoint '{path}': {first_line(error)}") from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise UserError(f"checkpoint '{path}' is no state dict: tensors by name are needed")
    return dict(state)


def _is_whole_archive(path: Path) -> bool:
    """Whether a file is a zip archive; its checksums are compared, which a memory map does not do.

    Raises:
        UserError: it is one, and damaged.
    """
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    # zipfile says NotImplementedError of a compression that it does not know
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise UserError(f"'{path}' is cut short or damaged ({error}): fetch it again") from None
    if broken is not None:
        raise UserError(f"'{path}' is damaged ({broken} has another checksum): fetch it again")
    return True
