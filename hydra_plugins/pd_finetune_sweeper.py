"""Hydra takes plugins from this namespace alone; what this one does stands in `pd_finetune.sweep`.

Every start of every stage imports it, so it imports next to nothing.
"""

from __future__ import annotations

from typing import Any, cast

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    """Every combination of swept values; see `pd_finetune.sweep.launch.sweep`.

    Args:
        params: values for keys, as on the command line; the command line goes before.
        shard: i/N or None.
        batch: jobs that a launcher gives to one process at a time.
    """

    def __init__(self, params: dict[str, Any] | None, shard: str | None, batch: int) -> None:
        self.params, self.shard, self.batch = params or {}, shard, batch

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra hands over."""
        self._given, self._task = (hydra_context, config), cast(Any, task_function)

    def sweep(self, arguments: list[str]) -> None:
        """Do the jobs; what became of them is left in the task's `tally`."""
        from pd_finetune.sweep.launch import sweep

        words = [f"{key}={value}" for key, value in self.params.items()]
        self._task.tally = sweep(
            self._task.stage,
            *self._given,
            [*words, *arguments],
            self.shard,
            self.batch,
        )
