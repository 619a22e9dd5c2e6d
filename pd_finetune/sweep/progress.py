"""The progress line of a sweep on stderr: redrawn in a terminal, else repeated now and then."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TextIO

from pd_finetune.sweep.tally import Event, Tally

TERMINAL_SECONDS, PLAIN_SECONDS = 0.5, 30.0


class Progress:
    """Shows a tally while the sweep goes on; a context manager.

    Args:
        news: asked at every turn, before the line is shown: events of other processes.
        stream: stderr by default.
        plain_seconds: between two lines where the stream is no terminal.
    """

    def __init__(
        self,
        tally: Tally,
        news: Callable[[], Iterable[Event]] = list,
        stream: TextIO | None = None,
        plain_seconds: float = PLAIN_SECONDS,
    ) -> None:
        self._tally, self._news = tally, news
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._plain_seconds = plain_seconds
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._shown_at, self._shown = time.monotonic(), ""
        self._thread = threading.Thread(target=self._turns, daemon=True, name="progress")

    def add(self, event: Event) -> None:
        """Take note of an event, and say what failed at once."""
        with self._lock:
            known = event.job in self._tally.messages
            self._tally.add(event)
            if not known and event.job in self._tally.messages:
                self.say(f"error: {self._tally.names[event.job]}: {event.message}")

    def listen(self) -> None:
        """Take note of what other processes have told."""
        with self._lock:
            for event in self._news():
                self.add(event)

    def say(self, text: str) -> None:
        """A line that stays."""
        with self._lock:
            self._clear()
            print(text, file=self._stream, flush=True)

    def _clear(self) -> None:
        if self._terminal and self._shown:
            self._stream.write("\r\x1b[K")
            self._shown = ""

    def _show(self) -> None:
        with self._lock:
            line = self._tally.line(time.time())
            if self._terminal:
                line = line[: shutil.get_terminal_size().columns - 1]
                self._stream.write(f"\r\x1b[K{line}")
                self._stream.flush()
                self._shown = line
            elif time.monotonic() - self._shown_at >= self._plain_seconds and line != self._shown:
                print(line, file=self._stream, flush=True)
                self._shown_at, self._shown = time.monotonic(), line

    def _turns(self) -> None:
        pause = TERMINAL_SECONDS if self._terminal else min(1.0, self._plain_seconds)
        while not self._over.wait(pause):
            self.listen()
            self._show()

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self.listen()
        with self._lock:
            self._clear()
        self.say(self._tally.line(time.time()))
