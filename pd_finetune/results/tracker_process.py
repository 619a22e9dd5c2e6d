"""A W&B tracker in a process of its own.

W&B spends two seconds of Python on starting. On a thread of the run it would take the interpreter
from a training loop whose steps last 50 ms; a process starts on another core while the run loads.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from pd_finetune.config import LoggerConfig
from pd_finetune.errors import UserError
from pd_finetune.results.record import RunRecord
from pd_finetune.runtime import no_collection

_idle: list[subprocess.Popen[bytes]] = []  # started, and not at work for a run


def warm_up(settings: LoggerConfig) -> None:
    """Start the process that `RemoteTracker` will use, unless there is one; no run is begun."""
    _idle[:] = [process for process in _idle if process.poll() is None]
    if settings.kind != "none" and not _idle:
        _idle.append(_start())


def _start() -> subprocess.Popen[bytes]:
    here = str(Path(__file__).resolve().parents[2])
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


class _Refused(UserError):
    """The process answered that it will not."""


class RemoteTracker:
    """Calls `WandbTracker` in the process and waits for what comes of it.

    Raises:
        UserError: as `WandbTracker` does, or the process has ended.
    """

    def __init__(
        self, settings: LoggerConfig, folder: Path, name: str, config: dict[str, Any]
    ) -> None:
        warm_up(settings)
        self._process = _idle.pop()
        try:
            self._call("open", settings, folder.absolute(), name, config)
        except _Refused:  # and ready for another run
            _idle.append(self._process)
            raise

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics of one training step."""
        self._call("log", step, metrics)

    def record(self, record: RunRecord) -> None:
        """The result."""
        self._call("record", record)

    def rollouts(self, rollouts: dict[str, dict[str, str]]) -> None:
        """Texts before and after."""
        self._call("rollouts", rollouts)

    def finish(self, exit_code: int) -> None:
        """End the run; the process waits for the next one, and ends with this program."""
        self._call("finish", exit_code)
        _idle.append(self._process)

    def _call(self, what: str, *arguments: Any) -> None:
        requests, replies = self._process.stdin, self._process.stdout
        assert requests is not None and replies is not None
        try:
            pickle.dump((what, arguments), requests)
            requests.flush()
            problem = pickle.load(replies)  # our own process wrote it
        except (OSError, EOFError):
            raise UserError("logger: the process that serves W&B has ended") from None
        if problem is not None:
            kind, message = problem
            raise _Refused(message) if kind == "user" else RuntimeError(message)


def _serve() -> None:
    """Carry out calls from standard input, and answer each with what went wrong, or None.

    A run whose program ends without finishing it is finished as failed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program's, which then closes our input
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    from pd_finetune.results.tracking import WandbTracker, get_ready

    unready = None
    try:
        with no_collection():  # while the run loads
            get_ready()
    except Exception as error:  # told to who opens: this process answers, and does not fall over
        reason = " ".join(str(error).split())[:300]
        unready = ("user", f"logger: W&B cannot start ({type(error).__name__}: {reason})")

    tracker: WandbTracker | None = None
    while True:
        try:
            what, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            break
        problem = unready
        try:
            if problem is not None:
                pass
            elif what == "open":
                tracker = WandbTracker(*arguments)
            else:
                getattr(tracker, what)(*arguments)
            if what == "finish":
                tracker = None
        except UserError as error:
            problem = ("user", str(error))
        except Exception as error:
            problem = ("failed", f"W&B: {type(error).__name__}: {error}")
        pickle.dump(problem, replies)
        replies.flush()
    if tracker is not None:
        tracker.finish(1)


if __name__ == "__main__":
    _serve()
