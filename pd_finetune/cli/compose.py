"""Configs composed outside of a stage's main, and what `--help` says of the groups."""

from __future__ import annotations

from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from pd_finetune.cli.checked import checked_config
from pd_finetune.cli.experiments import experiment_stages
from pd_finetune.cli.store import register
from pd_finetune.files import config_folder


def config_options(*groups: str) -> str:
    """The options of config groups, a line each, for `--help`; `experiment/<stage>`: its own."""
    width = max(len(group.partition("/")[0]) for group in groups) + 2
    lines = []
    for group, _, stage in (group.partition("/") for group in groups):
        names = sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))
        if stage:
            stages = experiment_stages(config_folder())
            names = [name for name in names if stages[name] == stage]
        lines.append(f"  {group:<{width}}{', '.join(names)}")
    return "\n".join(lines)


def composed(config_name: str, words: list[str], with_hydra: bool = False) -> DictConfig:
    """What a command line of these words composes, before it is checked; in a stage's run, too."""
    state = GlobalHydra.instance()
    around, state.hydra = state.hydra, None  # of the stage that asks for another's config
    try:
        with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
            return hydra.compose(config_name, words, return_hydra_config=with_hydra)
    finally:
        GlobalHydra.instance().hydra = around


def stage_config(config_name: str, schema: Any, words: list[str]) -> Any:
    """The checked config that a stage's command line of these words gives, outside of its main.

    Raises:
        HydraException, OmegaConfBaseException: a word names nothing.
        UserError: a value is refused.
    """
    register(config_name, schema)
    OmegaConf.register_new_resolver("config_options", config_options, replace=True)
    return checked_config(composed(config_name, words))
