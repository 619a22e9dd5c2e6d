"""Writing files so that a kill at any moment leaves either the old content or the new one."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pd_finetune.errors import UserError


def make_folder(folder: Path) -> Path:
    """Create `folder` and its parents.

    Raises:
        UserError: the folder cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write to folder '{folder}' ({error.strerror}): choose another one"
        ) from None
    return folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success it is synced and renamed over `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where derived data is kept: `$PD_FINETUNE_CACHE`, else `~/.cache/pd_finetune`."""
    given = os.environ.get("PD_FINETUNE_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "pd_finetune"


_LARGE = 2**26  # bytes: smaller files are hashed in a moment


def remembered_sha256(path: Path) -> str:
    """`file_sha256`, remembered for large files by inode, size and times of change.

    A checkpoint of 3 GB takes ten seconds to hash, and every run asks.
    """
    stat = path.stat()
    if stat.st_size < _LARGE:
        return file_sha256(path)
    facts = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    known = cache_folder() / "hashes" / hashlib.sha256(repr(facts).encode()).hexdigest()
    if known.is_file() and len(text := known.read_text(encoding="ascii").strip()) == 64:
        return text
    digest = file_sha256(path)
    make_folder(known.parent)
    write_text(known, digest + "\n")
    return digest
