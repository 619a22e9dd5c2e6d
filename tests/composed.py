"""Configs as the YAML files have them: values stand there alone, so tests take them from there."""

from __future__ import annotations

import copy
import importlib
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pd_finetune.cli.checked import checked_config
from pd_finetune.cli.compose import composed, stage_config
from pd_finetune.cli.store import register

STAGES = {
    "run": "finetuning.config.RunConfig",
    "pretrain": "pretraining.config.PretrainConfig",
    "decompose": "decomposition.config.DecomposeConfig",
    "quality": "quality.EvidenceConfig",
    "harvest": "selection.config.HarvestConfig",
    "export": "export.ExportConfig",
    "figures": "report.config.FiguresConfig",
    "rollouts": "rollouts.RolloutsConfig",
    "doses": "studies.doses.DosesConfig",
    "equal_quality": "studies.equal_quality.EqualQualityConfig",
    "front": "studies.front.FrontConfig",
    "screen": "studies.screen.ScreenConfig",
    "stability": "studies.stability.StabilityConfig",
    "token_counts": "studies.token_counts.TokenCountsConfig",
    "toys": "studies.toys.ToysConfig",
    "training_curves": "studies.training_curves.TrainingCurvesConfig",
    "tune": "studies.tune.TuneConfig",
}


def schema(name: str) -> Any:
    """The dataclass of a stage's config."""
    module, _, kind = STAGES[name].rpartition(".")
    return getattr(importlib.import_module(f"pd_finetune.{module}"), kind)


def stage(name: str, *words: str) -> Any:
    """The checked config that a stage's command line of these words gives."""
    return stage_config(name, schema(name), list(words))


@lru_cache
def _composed(name: str) -> DictConfig:
    register(name, schema(name)) if name in STAGES else register()
    return composed(name, [])


def _changed(config: DictConfig, values: dict[str, Any]) -> Any:
    config = copy.deepcopy(config)
    for key, value in values.items():
        OmegaConf.update(config, key, value)
    return checked_config(config)


def group(group: str, option: str, /, **values: Any) -> Any:
    """The checked config of one option of a group, with some of its values changed."""
    return _changed(_composed(f"{group}/{option}")[group], values)


def part(name: str, key: str, /, **values: Any) -> Any:
    """The checked config under one key of a stage's, with some of its values changed."""
    return _changed(_composed(name)[key], values)
