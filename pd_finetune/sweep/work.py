"""Doing jobs one after the other in this process; a failure is noted and the next one begun."""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pd_finetune.errors import TrainingError, UserError
from pd_finetune.records.directory import RunBusy
from pd_finetune.sweep.tally import FAILED, FINISHED, RUNNING, SKIPPED, WAITING, Event

BUSY_SECONDS = 1.0  # between two looks at runs that another process is at work on


@dataclass(frozen=True)
class SweepSupport:
    """What a stage offers beside doing one job, so that many of its jobs go well together.

    Args:
        run: does one job quietly; whether it was done just now (else it was finished before).
        finished: whether a job is finished, found out quickly and without loading anything.
        settle: the config as a job of the sweep named so has it.
        loads: what a job loads; jobs of equal words are done one after the other.
        kind: jobs of one kind take about equally long.
    """

    run: Callable[[Any], bool]
    finished: Callable[[Any], bool]
    settle: Callable[[Any, str], Any]
    loads: Callable[[Any], str]
    kind: Callable[[Any], str]


@dataclass(frozen=True)
class Stage:
    """What a stage's main does with one checked config, and with many if it says how."""

    run: Callable[[Any], object]
    sweep: SweepSupport | None = None


def _attempt(stage: Stage, number: int, config: Any, say: Callable[[str], None]) -> Event:
    try:
        if stage.sweep is None:
            stage.run(config)
            return Event(number, FINISHED)
        return Event(number, FINISHED if stage.sweep.run(config) else SKIPPED)
    except RunBusy:
        return Event(number, WAITING)
    except (UserError, TrainingError) as error:
        return Event(number, FAILED, str(error), isinstance(error, UserError))
    except Exception as error:
        say(traceback.format_exc().rstrip())
        return Event(number, FAILED, f"{type(error).__name__}: {error}".splitlines()[0])


def work(
    stage: Stage,
    jobs: Sequence[tuple[int, Any]],
    report: Callable[[Event], None],
    say: Callable[[str], None],
) -> None:
    """Do jobs, given as number and config, in order; those in other hands are looked at last.

    Args:
        report: told of every change.
        say: shows the traceback of an error that is no user's mistake.
    """
    left, busy = deque(jobs), 0
    while left:
        number, config = left.popleft()
        report(Event(number, RUNNING))
        event = _attempt(stage, number, config, say)
        report(event)
        if event.state != WAITING:
            busy = 0
            continue
        left.append((number, config))
        busy += 1
        if busy >= len(left):
            time.sleep(BUSY_SECONDS)
