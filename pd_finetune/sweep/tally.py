"""What became of a sweep's jobs so far, and the time that the rest will take."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

RUNNING, WAITING = "running", "waiting"  # waiting: another process has it in hand
FINISHED, SKIPPED, FAILED = "finished", "skipped", "failed"
ENDED = (FINISHED, SKIPPED, FAILED)


@dataclass(frozen=True)
class Event:
    """A job's change of state.

    Args:
        job: its number.
        message: why it failed; empty else.
        user_error: whether that is a user's mistake.
        time: seconds since the epoch.
    """

    job: int
    state: str
    message: str = ""
    user_error: bool = False
    time: float = field(default_factory=time.time)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Tally:
    """States of all jobs, fed with events; those of one job in order, of several in any.

    Args:
        names: of all jobs, by number.

    Attributes:
        kinds: of jobs by number; those of one kind are expected to take equally long.
        messages: why jobs failed, by number.
    """

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names
        self.kinds: dict[int, str] = {}
        self._states: dict[int, str] = {}
        self._began: dict[int, float] = {}
        self._seconds: dict[int, float] = {}
        self.messages: dict[int, str] = {}

    def add(self, event: Event) -> None:
        """Take note of an event; a job that ended stays as it is."""
        if self._states.get(event.job) in ENDED:
            return
        self._states[event.job] = event.state
        if event.state == RUNNING:
            self._began[event.job] = event.time
        elif event.state == FINISHED and event.job in self._began:
            self._seconds[event.job] = event.time - self._began[event.job]
        elif event.state == FAILED:
            self.messages[event.job] = event.message

    def count(self, *states: str) -> int:
        """Number of jobs in any of these states."""
        return sum(state in states for state in self._states.values())

    @property
    def running(self) -> list[int]:
        return [job for job, state in self._states.items() if state == RUNNING]

    @property
    def open(self) -> list[int]:
        """Jobs that have not ended."""
        return [job for job in self.names if self._states.get(job) not in ENDED]

    def _mean_seconds(self, jobs: Iterable[int]) -> float | None:
        known = [self._seconds[job] for job in jobs if job in self._seconds]
        return sum(known) / len(known) if known else None

    def seconds_left(self, now: float) -> float | None:
        """Expected seconds until all have ended; None while nothing is known.

        Each open job takes as long as those of its kind did, or as all did where none has; as many
        go on at once as do now. Jobs that were found finished took no time and don't count.
        """
        overall = self._mean_seconds(self._seconds)
        if overall is None:
            return None
        by_kind: dict[str, list[int]] = {}
        for job in self._seconds:
            by_kind.setdefault(self.kinds.get(job, ""), []).append(job)
        means = {kind: self._mean_seconds(jobs) for kind, jobs in by_kind.items()}
        left = 0.0
        for job in self.open:
            expected = means.get(self.kinds.get(job, "")) or overall
            spent = now - self._began[job] if self._states.get(job) == RUNNING else 0.0
            left += max(0.0, expected - spent)
        return left / max(1, len(self.running))

    def line(self, now: float) -> str:
        """One line: done, skipped, running, failed, and the time left."""
        counts = {"done": FINISHED, "skipped": SKIPPED, "failed": FAILED}
        parts = [f"{self.count(state)} {word}" for word, state in counts.items()]
        running, left = self.running, self.seconds_left(now)
        if running:
            parts.append(f"{len(running)} running")
        if self.count(WAITING):
            parts.append(f"{self.count(WAITING)} in other hands")
        text = f"sweep: {', '.join(parts)} of {len(self.names)}"
        if self.open and left is not None:
            text += f"; {duration(left)} left"
        return f"{text} ({self.names[running[0]]})" if len(running) == 1 else text


def duration(seconds: float) -> str:
    """Hours and minutes, minutes, or seconds, as fits."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
