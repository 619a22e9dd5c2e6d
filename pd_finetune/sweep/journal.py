"""News of a sweep from other processes: each appends to a file of its own in one folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from pd_finetune.files import make_folder, writer
from pd_finetune.sweep.tally import Event


def note(folder: Path, event: Event) -> None:
    """Append an event to this process's file."""
    with open(folder / f"{writer()}.jsonl", "a", encoding="utf-8") as handle:
        handle.write(json.dumps(event.to_dict()) + "\n")


class Journal:
    """The folder, from the side of the process that started the others; they only `note`.

    Raises:
        UserError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder(folder)
        self._read: dict[Path, int] = {}

    def news(self) -> list[Event]:
        """Events that were noted since the last call; of each process in order."""
        events = []
        for path in sorted(self.folder.glob("*.jsonl")):
            with open(path, "rb") as handle:
                handle.seek(self._read.get(path, 0))
                # a line without its end is still being written
                whole = handle.read().rpartition(b"\n")[0]
            self._read[path] = self._read.get(path, 0) + len(whole) + bool(whole)
            events += [Event(**json.loads(line)) for line in whole.splitlines()]
        return events

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
