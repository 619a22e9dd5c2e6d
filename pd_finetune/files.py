"""Writing files so that a kill at any moment leaves either the old content or the new one."""

import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pd_finetune.errors import UserError

_SETTLED_SECONDS = 2.0  # a file that changed later than this ago may change again unnoticed


def writer() -> str:
    """This process among all that may write to a shared folder: `<host>-<process id>`."""
    return f"{socket.gethostname()}-{os.getpid()}"


def make_folder(folder: Path) -> Path:
    """Create `folder` and its parents.

    Raises:
        UserError: the folder cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-probe-{writer()}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to folder '{folder}' ({error.strerror}): choose another one"
        ) from None
    return folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success it is synced and renamed over `path`."""
    temporary = path.with_name(f".{path.name}.{writer()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(value: Any) -> str:
    """`value` as indented JSON, with an end of line.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically; NaN is refused."""
    write_text(path, json_text(value))


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where derived data is kept: `$PD_FINETUNE_CACHE`, else `~/.cache/pd_finetune`."""
    given = os.environ.get("PD_FINETUNE_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "pd_finetune"


_hashes: dict[str, str] = {}


def source_sha256(path: Path) -> str:
    """Hex SHA-256 of a file that is read often and seldom changes, remembered in the cache folder.

    Known by place, size, inode and times of change; the last of them no program can set back. A
    file of 3 GB takes seconds to hash, and every run asks.
    """
    path = path.resolve()
    stat = path.stat()
    place = json.dumps([str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino])
    if place in _hashes:
        return _hashes[place]
    known = cache_folder() / "hashes" / hashlib.sha256(place.encode()).hexdigest()
    digest = known.read_text(encoding="ascii").strip() if known.is_file() else ""
    if len(digest) != 64:
        asked = time.time()
        digest = file_sha256(path)
        if asked - max(stat.st_mtime, stat.st_ctime) < _SETTLED_SECONDS:
            return digest
        make_folder(known.parent)
        write_text(known, digest + "\n")
    _hashes[place] = digest
    return digest


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: two trainings would write over each other's checkpoints."""
    make_folder(folder)
    with open(folder / ".lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
