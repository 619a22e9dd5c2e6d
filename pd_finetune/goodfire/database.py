"""Goodfire's SQLite files, opened so that nothing of theirs is written, not even a journal."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from pd_finetune.errors import UserError


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that can only read; SQLite's errors become one line.

    Raises:
        UserError: the file is missing or is no database of the expected kind.
    """
    if not path.is_file():
        raise UserError(f"no database at '{path}'")
    # immutable: a folder without write permission is enough; it skips a write-ahead log, so that
    # a database with one beside it is opened the ordinary way
    live = path.with_name(f"{path.name}-wal").exists()
    mode = "mode=ro" if live else "mode=ro&immutable=1"
    connection = None
    try:
        connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?{mode}", uri=True)
        connection.row_factory = sqlite3.Row
        yield connection
    except sqlite3.Error as error:
        raise UserError(f"cannot read database '{path}': {error}") from None
    finally:
        if connection is not None:
            connection.close()


def columns(connection: sqlite3.Connection, table: str) -> list[str]:
    """Column names of a table; none where there is no such table."""
    return [row["name"] for row in connection.execute(f"PRAGMA table_info({table})")]


def latest_database(place: Path, name: str, prefix: str) -> Path | None:
    """`name` at `place`: the file itself, in the folder, or in its latest `<prefix>-*` folder.

    Those folders are named by the time they were begun, so that the last name is the latest; ones
    without the file are passed over, and the folders of one run may lie a level down.
    """
    if place.is_file():
        return place if place.suffix == ".db" else None
    if (place / name).is_file():
        return place / name
    for pattern in (f"{prefix}-*/{name}", f"*/{prefix}-*/{name}"):
        if found := sorted(place.glob(pattern), key=lambda path: path.parent.name):
            # later code marks complete folders
            complete = [path for path in found if (path.parent / ".done").exists()]
            return (complete or found)[-1]
    return None
