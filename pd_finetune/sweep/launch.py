"""A whole sweep: find out what is left to do, and do it here or by one of Hydra's launchers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig

from pd_finetune.cli.checked import checked_config
from pd_finetune.cli.store import expect_launcher_schemas
from pd_finetune.errors import UserError
from pd_finetune.files import make_folder, writer
from pd_finetune.sweep.grid import Grid, Job
from pd_finetune.sweep.journal import Journal, note
from pd_finetune.sweep.progress import Progress
from pd_finetune.sweep.shard import Shard
from pd_finetune.sweep.tally import FAILED, SKIPPED, Event, Tally
from pd_finetune.sweep.work import Stage, work

_HERE = "BasicLauncher"  # of Hydra's launchers the one that would do all jobs in this process

Numbered = tuple[int, Any]  # a job's number and its config


@dataclass
class Batches:
    """The task that a launcher hands to other processes: the batch of the job's number.

    Jobs of a batch share what the process loads. Configs travel along, so that nothing is composed
    again; each change of state is noted in `folder` at once and returned at the end.
    """

    stage: Stage
    batches: list[list[Numbered]]
    folder: Path

    def __setstate__(self, state: dict[str, Any]) -> None:
        # a launcher's own process gets this first, and then composes its config
        expect_launcher_schemas()
        self.__dict__.update(state)

    def __call__(self, config: DictConfig) -> list[dict[str, Any]]:
        events: list[Event] = []

        def report(event: Event) -> None:
            events.append(event)
            note(self.folder, event)

        def say(text: str) -> None:
            print(text, file=sys.stderr, flush=True)

        work(self.stage, self.batches[HydraConfig.get().job.num], report, say)
        return [event.to_dict() for event in events]


def _left_to_do(
    stage: Stage,
    name: str,
    jobs: Iterable[tuple[Job, DictConfig]],
    tally: Tally,
    progress: Progress,
) -> list[Numbered]:
    """Jobs neither impossible nor finished, those that load the same next to each other."""
    left: list[Numbered] = []
    for job, composed in jobs:
        try:
            config = checked_config(composed)
            if stage.sweep:
                config = stage.sweep.settle(config, name)
                if stage.sweep.finished(config):
                    progress.add(Event(job.number, SKIPPED))
                    continue
                tally.kinds[job.number] = stage.sweep.kind(config)
        except UserError as error:
            progress.add(Event(job.number, FAILED, str(error), user_error=True))
            continue
        left.append((job.number, config))
    if support := stage.sweep:
        places: dict[str, int] = {}
        left.sort(key=lambda job: places.setdefault(support.loads(job[1]), len(places)))
    return left


def _launcher(context: HydraContext, master: DictConfig, task: Batches) -> Any:
    try:
        return Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=task, config=master
        )
    except (RuntimeError, ImportError):
        target = str(master.hydra.launcher.get("_target_", "")).rpartition(".")[2]
        raise UserError(
            f"hydra/launcher: {target} is not installed: pip install 'pd_finetune[sweep]'"
        ) from None


def _elsewhere(
    launcher: Any, words: Sequence[Sequence[str]], tally: Tally, progress: Progress
) -> None:
    """Let a launcher do all batches; jobs that are open when it is done have failed.

    Args:
        words: overrides for each batch; the launcher composes a config of them.
    """
    lost = "the process that had it ended early"
    try:
        for done in launcher.launch(words, initial_job_idx=0):
            for values in done.return_value if done.status == JobStatus.COMPLETED else []:
                progress.add(Event(**values))
    except Exception as error:  # of the launcher, or of a process that died
        lost += f": {type(error).__name__}: {error}".splitlines()[0]
    progress.listen()
    for number in tally.open:
        progress.add(Event(number, FAILED, lost))


def sweep(
    stage: Stage,
    context: HydraContext,
    master: DictConfig,
    arguments: list[str],
    shard: str | None,
    batch: int,
) -> Tally:
    """Do all jobs of a sweep, or of one part of it, but those that are finished already.

    All configs are composed before the first job begins: a mistake in one stops the sweep then. A
    job that fails later stops none of the others.

    Args:
        master: the sweep's own config.
        arguments: overrides, swept ones among them.
        shard: i/N for every N-th job; None for all.
        batch: jobs that one process of a launcher does; without effect in this process.

    Raises:
        UserError: the shard, the launcher or the folder is impossible.
        HydraException, OmegaConfBaseException: a job's config cannot be composed.
    """
    grid = Grid(context.config_loader, master, arguments)
    jobs = Shard.parse(shard).of(grid.jobs) if shard else grid.jobs
    composed = [(job, grid.config(job)) for job in jobs]
    folder = make_folder(Path(str(master.hydra.sweep.dir)).expanduser())
    name = grid.name(master.hydra.runtime.choices.get("experiment"))
    tally = Tally({job.number: job.name for job in jobs})
    here = str(master.hydra.launcher.get("_target_", "")).endswith(_HERE)
    journal = None if here else Journal(folder.resolve() / f".sweep-{writer()}")
    progress = Progress(tally, journal.news if journal else list)
    try:
        with progress:
            left = _left_to_do(stage, name, composed, tally, progress)
            if journal is None:
                work(stage, left, progress.add, progress.say)
            elif left:
                overrides = {job.number: list(job.overrides) for job in jobs}
                parts = [left[start : start + batch] for start in range(0, len(left), batch)]
                launcher = _launcher(context, master, Batches(stage, parts, journal.folder))
                _elsewhere(launcher, [overrides[part[0][0]] for part in parts], tally, progress)
    finally:
        if journal:
            journal.remove()
    return tally
