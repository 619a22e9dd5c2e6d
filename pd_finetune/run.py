"""One fine-tune, from a token budget to a result record: `python -m pd_finetune.run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_finetune.cli import stage_main
from pd_finetune.config import RunConfig

if TYPE_CHECKING:
    from pd_finetune.results.record import RunRecord


def run(config: RunConfig) -> RunRecord:
    """Do the run that `config` describes, or read its record where it is done already.

    Raises:
        UserError: something asked for does not exist or does not fit together.
    """
    from pd_finetune.finetuning.experiment import finetune_run
    from pd_finetune.results.table import print_record

    record, folder, fresh = finetune_run(config)
    if not fresh:
        print(f"already finished; change the config or remove {folder} to do it again")
    print_record(record)
    print(f"record: {folder / 'result.json'}")
    return record


if __name__ == "__main__":
    stage_main("config", run)
