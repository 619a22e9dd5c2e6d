"""Conversions kept by content: the same source is converted once, a changed one anew."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pd_finetune.files import cache_folder, make_folder, writer


def goodfire_cache() -> Path:
    """Where downloads and conversions go."""
    return cache_folder() / "goodfire"


def converted(
    kind: str, version: int, sources: dict[str, str], build: Callable[[Path], None]
) -> Path:
    """The folder that `build` makes of these sources, made where it does not exist yet.

    Written under a temporary name and renamed when complete, so that a kill leaves nothing behind
    that a later run would take for whole.

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
    make_folder(folder.parent)
    temporary = folder.with_name(f".{folder.name}.{writer()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        build(temporary)
        for path in temporary.iterdir():
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())
        try:
            os.rename(temporary, folder)
        except OSError:
            # another process was first; what it made is the same
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
