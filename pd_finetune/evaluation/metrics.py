"""Measures of your own beside cross-entropy and KL: functions that the config names.

    evaluation:
      metrics: {top1: {_target_: my_metrics.top1}}

A metric is called with the target, unedited and then edited, and the held-out windows by text
(`de`, `en`, ..., `de_ood`, ...); what it returns stands in the record as
`metrics: {top1: {base: {...}, edited: {...}}}`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from jaxtyping import Int
from torch import Tensor

from pd_finetune.errors import UserError
from pd_finetune.evaluation.held_out import HeldOut
from pd_finetune.targets.changes import Change, baked
from pd_finetune.targets.load import Target

Texts = dict[str, Int[Tensor, "rows window"]]
Metric = Callable[[Target, Texts], Mapping[str, float]]
Values = dict[str, float]


def metrics_of(nodes: Mapping[str, Any]) -> dict[str, Metric]:
    """The functions of `evaluation.metrics`, with the arguments that stand beside `_target_`.

    Raises:
        UserError: one is not there.
    """
    try:
        return {name: instantiate({**node, "_partial_": True}) for name, node in nodes.items()}
    except (InstantiationException, TypeError) as error:
        raise UserError(f"evaluation.metrics: {' '.join(str(error).split())}") from None


@torch.no_grad()
def measure(
    metrics: Mapping[str, Metric], target: Target, change: Change, texts: Mapping[str, HeldOut]
) -> dict[str, dict[str, Values]]:
    """Every metric of the target before and after the change.

    Raises:
        UserError: a metric returned something else than finite numbers by name.
    """
    windows = {name: text.ids.to(target.device) for name, text in texts.items()}
    base = {name: _numbers(name, metric(target, windows)) for name, metric in metrics.items()}
    with baked(target.model, change):
        after = {name: _numbers(name, metric(target, windows)) for name, metric in metrics.items()}
    return {name: {"base": base[name], "edited": after[name]} for name in metrics}


def _numbers(name: str, values: Mapping[str, float]) -> Values:
    try:
        numbers = {str(key): float(value) for key, value in values.items()}
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"evaluation.metrics.{name} must return numbers by name") from None
    for key, value in numbers.items():
        if not math.isfinite(value):
            raise UserError(f"evaluation.metrics.{name} is {value} on '{key}'")
    return numbers
