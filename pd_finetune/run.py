"""One fine-tune, from a token budget to a result record: `python -m pd_finetune.run`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pd_finetune.errors import UserError
from pd_finetune.finetuning.config import RunConfig
from pd_finetune.main import stage_main
from pd_finetune.runtime import no_collection
from pd_finetune.sweep.work import SweepSupport

if TYPE_CHECKING:
    from pd_finetune.records.record import RunRecord


def run(config: RunConfig) -> RunRecord:
    """Do the run that `config` describes, or read its record where it is done already.

    Raises:
        UserError: something asked for does not exist or does not fit together.
    """
    if config.shard:
        raise UserError(f"shard={config.shard} is a part of a sweep: give -m, or no shard")
    with no_collection():
        from pd_finetune.on_demand import finetuned

    record, folder, fresh = finetuned(config)
    if not fresh:
        print(f"already finished; change the config or remove {folder} to do it again")
    from pd_finetune.results.table import print_record

    print_record(record)
    print(f"record: {folder / 'result.json'}")
    return record


def run_in_sweep(config: RunConfig) -> bool:
    """Do a run without a word; whether it was done just now."""
    from pd_finetune.on_demand import finetuned

    _, _, fresh = finetuned(config)
    return fresh


def finished(config: RunConfig) -> bool:
    """Whether a run is done, from files alone."""
    from pd_finetune.finetuning.identity import finished_run

    return finished_run(config) is not None


def settled(config: RunConfig, sweep: str) -> RunConfig:
    """The config of one run of a sweep: no bar of its own, and W&B's group is the sweep."""
    logger = replace(config.logger, group=config.logger.group or sweep)
    return replace(config, progress=False, logger=logger)


def loads(config: RunConfig) -> str:
    """What a run loads and the next one may take over."""
    return repr((config.model, config.decomposition, config.languages.source, config.device))


def kind(config: RunConfig) -> str:
    """Runs of one method and selection take about equally long."""
    return repr((config.method, config.selection))


SWEEP = SweepSupport(run_in_sweep, finished, settled, loads, kind)

if __name__ == "__main__":
    stage_main("run", RunConfig, run, SWEEP)
