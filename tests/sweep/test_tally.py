"""What a sweep says of itself: counts, time left, the line, news of other processes."""

import io
import subprocess
import sys
from pathlib import Path

from pd_finetune.errors import TrainingError, UserError
from pd_finetune.records.directory import RunBusy
from pd_finetune.sweep import work as work_module
from pd_finetune.sweep.journal import Journal
from pd_finetune.sweep.progress import Progress
from pd_finetune.sweep.tally import (
    FAILED,
    FINISHED,
    RUNNING,
    SKIPPED,
    WAITING,
    Event,
    Tally,
    duration,
)
from pd_finetune.sweep.work import Stage, SweepSupport, work


def tally(*events: tuple[int, str, float], jobs: int = 6) -> Tally:
    made = Tally({number: f"seed={number}" for number in range(jobs)})
    for job, state, at in events:
        made.add(Event(job, state, time=at))
    return made


def test_time_left_goes_by_jobs_that_were_done_here() -> None:
    assert tally((0, SKIPPED, 0)).seconds_left(5) is None
    # skipped ones took no time: 10 s for each of the four that are left
    some = tally((0, SKIPPED, 0), (1, RUNNING, 0), (1, FINISHED, 10))
    assert some.seconds_left(10) == 40
    # one of them has been running for 4 s
    some.add(Event(2, RUNNING, time=10))
    assert some.seconds_left(14) == 36
    # two at once
    some.add(Event(3, RUNNING, time=14))
    assert some.seconds_left(14) == 18


def test_time_left_tells_kinds_apart() -> None:
    some = tally((0, RUNNING, 0), (0, FINISHED, 2), (1, RUNNING, 2), (1, FINISHED, 22))
    some.kinds = {0: "mask", 1: "lora", 2: "mask", 3: "lora", 4: "lora", 5: "new"}
    assert some.seconds_left(22) == 2 + 20 + 20 + 11


def test_line() -> None:
    some = tally((0, SKIPPED, 0), (1, RUNNING, 0), (1, FINISHED, 60), (2, RUNNING, 60))
    assert some.line(60) == (
        "sweep: 1 done, 1 skipped, 0 failed, 1 running of 6; 4 min left (seed=2)"
    )
    some.add(Event(2, FAILED, "no", time=61))
    some.add(Event(3, WAITING))
    assert some.line(61) == (
        "sweep: 1 done, 1 skipped, 1 failed, 1 in other hands of 6; 3 min left"
    )
    some.add(Event(2, FINISHED))  # told twice, by file and by return value
    assert some.messages == {2: "no"} and some.open == [3, 4, 5]


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 89, 90, 5000, 20000)] == [
        *("0 s", "89 s", "2 min", "83 min", "5 h 33 min")
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_line_and_failures_above_it() -> None:
    out = Terminal()
    progress = Progress(tally(jobs=2), stream=out)
    with progress:
        progress.add(Event(0, RUNNING))
        progress._show()
        progress.add(Event(0, FAILED, "it broke"))
        progress.add(Event(0, FAILED, "it broke"))
    text = out.getvalue()
    assert text.count("error: seed=0: it broke\n") == 1
    assert "\r\x1b[K" in text
    assert text.endswith("sweep: 0 done, 0 skipped, 1 failed of 2\n")


def test_elsewhere_it_is_a_plain_line_now_and_then() -> None:
    out = io.StringIO()
    progress = Progress(tally(jobs=2), stream=out, plain_seconds=0.0)
    with progress:
        for state in (RUNNING, RUNNING, FINISHED):
            progress.add(Event(0, state))
            progress._show()
    lines = out.getvalue().splitlines()
    assert "\r" not in out.getvalue() and "\x1b" not in out.getvalue()
    # the same line is not repeated
    assert len(lines) == len(set(lines[:-1])) + 1
    quiet = io.StringIO()
    with Progress(tally(), stream=quiet) as hourly:
        hourly._show()
    assert quiet.getvalue() == "sweep: 0 done, 0 skipped, 0 failed of 6\n"


def test_news_of_other_processes_arrives_once_and_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "news")
    code = (
        "import sys; from pathlib import Path; from pd_finetune.sweep.journal import note;"
        "from pd_finetune.sweep.tally import Event;"
        "[note(Path(sys.argv[1]), Event(n, 'failed', 'ä\\n', time=n)) for n in (1, 2)]"
    )
    subprocess.run([sys.executable, "-c", code, str(journal.folder)], check=True)
    assert journal.news() == [Event(n, FAILED, "ä\n", time=n) for n in (1, 2)]
    assert journal.news() == []
    (file,) = journal.folder.iterdir()
    line = file.read_bytes().splitlines()[0]
    with open(file, "ab") as handle:
        handle.write(line[:10])
        handle.flush()
        assert journal.news() == []
        handle.write(line[10:] + b"\n")
    assert [event.job for event in journal.news()] == [1]
    journal.remove()
    assert not journal.folder.exists()


def test_failures_stop_nothing_and_busy_runs_come_last(monkeypatch) -> None:
    monkeypatch.setattr(work_module, "BUSY_SECONDS", 0.0)
    looks = {"c": 0}

    def run(name: str) -> bool:
        if name == "a":
            raise UserError("mend it")
        if name == "b":
            raise TrainingError("loss is nan")
        if name == "c":
            looks["c"] += 1
            if looks["c"] < 4:
                raise RunBusy("another process is at work")
            return False
        if name == "d":
            raise KeyError("boom")
        return True

    support = SweepSupport(run, lambda c: False, lambda c, s: c, str, str)
    events: list[Event] = []
    said: list[str] = []
    work(Stage(run, support), list(enumerate("cabde")), events.append, said.append)
    ended = [(e.job, e.state) for e in events if e.state not in (RUNNING, WAITING)]
    assert ended == [(1, FAILED), (2, FAILED), (3, FAILED), (4, FINISHED), (0, SKIPPED)]
    assert [e.message for e in events if e.message] == [
        *("mend it", "loss is nan", "KeyError: 'boom'")
    ]
    assert [e.user_error for e in events if e.message] == [True, False, False]
    assert len(said) == 1 and said[0].endswith("KeyError: 'boom'") and "Traceback" in said[0]
