"""The one cache: derived files that carry a checksum, which is checked whenever one is read.

A damaged file is told of in one line and made anew, so that it never becomes another number. A file
is its content and then 32 bytes, the SHA-256 of its name and the content: one copied over another
is found out, too. What reads a format from its beginning (NumPy's) need not know of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from pd_finetune.files import file_sha256, make_folder, replacing

_DIGEST_BYTES = 32
_CHUNK_BYTES = 2**20
_SETTLED_SECONDS = 2.0  # a file that changed later than this ago may change again unnoticed
_LEFTOVER_SECONDS = 24 * 3600  # a temporary file this old belongs to nobody


def cache_folder() -> Path:
    """Where derived data is kept: `$PD_FINETUNE_CACHE`, else `~/.cache/pd_finetune`."""
    given = os.environ.get("PD_FINETUNE_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "pd_finetune"


def entry(kind: str, key: str, suffix: str = "") -> Path:
    """The file of a key: everything that decides its content belongs into the key."""
    return cache_folder() / kind / (hashlib.sha256(key.encode()).hexdigest()[:32] + suffix)


def keep(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write an entry atomically, with its checksum.

    Raises:
        UserError: the cache folder cannot be written.
    """
    make_folder(path.parent)
    _remove_leftovers(path.parent)
    with replacing(path) as temporary:
        with open(temporary, "wb") as handle:
            write(handle)
        digest = _digest(temporary, path.name, temporary.stat().st_size)
        with open(temporary, "ab") as handle:
            handle.write(digest)


def is_whole(path: Path) -> bool:
    """Whether an entry is there and as it was written; a damaged one is told of and removed."""
    try:
        size = path.stat().st_size - _DIGEST_BYTES
        with open(path, "rb") as handle:
            handle.seek(max(size, 0))
            if size >= 0 and handle.read() == _digest(path, path.name, size):
                return True
        path.unlink()
    except OSError:
        return False
    print(f"cache: '{path}' is damaged: made anew", file=sys.stderr, flush=True)
    return False


def content(path: Path) -> bytes | None:
    """What was written to an entry; None where it is absent or damaged."""
    return path.read_bytes()[:-_DIGEST_BYTES] if is_whole(path) else None


def cached_json(kind: str, key: str, compute: Callable[[], Any]) -> Any:
    """The JSON value of a key, computed and kept where it is not there yet."""
    path = entry(kind, key, ".json")
    if (stored := content(path)) is not None:
        return json.loads(stored)
    value = compute()
    keep(path, lambda handle: _write(handle, json.dumps(value)))
    return value


_hashes: dict[str, str] = {}


def source_sha256(path: Path) -> str:
    """Hex SHA-256 of a file that is read often and seldom changes, remembered in the cache.

    Known by place, size, inode and times of change; the last of them no program can set back. A
    file of 3 GB takes seconds to hash, and every run asks.
    """
    path = path.resolve()
    stat = path.stat()
    place = json.dumps([str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino])
    if place not in _hashes:
        if time.time() - max(stat.st_mtime, stat.st_ctime) < _SETTLED_SECONDS:
            return file_sha256(path)
        _hashes[place] = str(cached_json("hashes", place, lambda: file_sha256(path)))
    return _hashes[place]


def _write(handle: BinaryIO, text: str) -> None:
    handle.write(text.encode())


def _digest(path: Path, name: str, size: int) -> bytes:
    digest, left = hashlib.sha256(name.encode()), size
    with open(path, "rb") as handle:
        while left > 0 and (chunk := handle.read(min(left, _CHUNK_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.digest()


def _remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed long ago left half-written."""
    for path in folder.glob(".*.tmp"):
        if path.is_file() and time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
            path.unlink(missing_ok=True)
