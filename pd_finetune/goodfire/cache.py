"""Conversions kept by content: the same source is converted once, a changed one anew."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pd_finetune.cache import cache_folder
from pd_finetune.files import alone


def goodfire_cache() -> Path:
    """Where downloads and conversions go."""
    return cache_folder() / "goodfire"


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder; who calls holds its lock: none is at work."""
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def converted(
    kind: str, version: int, sources: dict[str, str], build: Callable[[Path], None]
) -> Path:
    """The folder that `build` makes of these sources, made where it does not exist yet.

    Written under a temporary name and renamed when complete, one at a time, so that a kill leaves
    nothing behind that a later run would take for whole, and the next conversion removes it.

    Args:
        kind: name of the cache's subfolder.
        version: of the converter; a new one converts anew.
        sources: role of each source -> hex SHA-256 of its content.
        build: fills the empty folder that it is given.
    """
    identity = json.dumps([version, sources], sort_keys=True)
    folder = goodfire_cache() / kind / hashlib.sha256(identity.encode()).hexdigest()[:24]
    if folder.is_dir():
        return folder
    with alone(folder.parent):
        remove_leftovers(folder.parent)
        if folder.is_dir():  # made while this process waited
            return folder
        temporary = folder.with_name(f".{folder.name}.tmp")
        temporary.mkdir()
        try:
            build(temporary)
            for path in temporary.iterdir():
                with open(path, "rb") as handle:
                    os.fsync(handle.fileno())
            os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder
