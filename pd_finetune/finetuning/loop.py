"""The one training loop: same objective, steps and decay for every edit that is trained."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from pd_finetune.edits.edit import Edit
from pd_finetune.errors import TrainingError
from pd_finetune.finetuning.config import ObjectiveConfig
from pd_finetune.finetuning.objective import Objective
from pd_finetune.targets.changes import edited, lowest_layer
from pd_finetune.targets.load import Target
from pd_finetune.text.budget import TargetSample

OnStep = Callable[[int, dict[str, float]], None]


def lr_factor(step: int, settings: ObjectiveConfig) -> float:
    """Share of the learning rate at a step counted from 0: linear, 0 after the last."""
    return 1.0 - step / settings.steps if settings.lr_decay == "linear" else 1.0


def protected_rows(
    seed: int, step: int, pool: int, settings: ObjectiveConfig
) -> Int[Tensor, " rows"]:
    """Windows of the pool that a step sees: by seed and step alone, the same for all methods."""
    rng = np.random.default_rng((seed, step))
    rows = rng.choice(pool, size=min(settings.protect_rows, pool), replace=False)
    return torch.from_numpy(np.sort(rows))


def _finite(step: int, name: str, value: float) -> float:
    if not math.isfinite(value):
        raise TrainingError(f"{name} is {value} at step {step}: lower method.lr")
    return value


def _gradients(
    target: Target, objective: Objective, edit: Edit, rows: Int[Tensor, " rows"], step: int
) -> dict[str, float]:
    """Add the gradient of the whole objective to the parameters; returns its terms."""
    windows = objective.windows(rows)
    positions = windows.entering.shape[:2].numel()
    ce_sum = hinge_sum = kl_value = 0.0
    with edited(target.model, edit):
        for part, protected in objective.forwards(windows):
            ce, kl = objective.terms(part, protected)
            hinge, kl_part = objective.hinge(ce).sum(), kl.sum() / positions
            ce_sum += _finite(step, "target cross-entropy", ce.sum().item())
            kl_value += _finite(step, "protected KL", kl_part.item())
            hinge_sum += hinge.item()
            loss = hinge / objective.target_tokens + objective.kl_weight * kl_part
            loss.backward()
    gradients = [p.grad for p in edit.parameters() if p.grad is not None]
    _finite(step, "gradient norm", torch.nn.utils.get_total_norm(gradients).item())
    hinge_mean = hinge_sum / objective.target_tokens
    return {
        "train/target_ce_nats": ce_sum / objective.target_tokens,
        "train/hinge_nats": hinge_mean,
        "train/protected_kl_nats": kl_value,
        "train/loss_nats": hinge_mean + objective.kl_weight * kl_value,
    }


def train(
    target: Target,
    edit: Edit,
    sample: TargetSample,
    pool: Int[Tensor, "pool tokens"],
    settings: ObjectiveConfig,
    lr: float,
    seed: int,
    on_step: OnStep | None = None,
    progress: bool = False,
) -> int:
    """Train an edit's parameters in place; the target's model is clean before and after.

    Adam without weight decay. `on_step(step, metrics)` is called once a step with the values before
    its update. Returns the number of steps.

    Raises:
        TrainingError: a term is not finite.
    """
    objective = Objective(target, sample, pool, settings.kl_weight, lowest_layer(edit))
    optimiser = torch.optim.Adam(edit.parameters(), lr=lr, fused=True)
    steps = range(settings.steps)
    for step in tqdm(steps, desc="fine-tune", unit="step", disable=not progress, leave=False):
        for group in optimiser.param_groups:
            group["lr"] = lr * lr_factor(step, settings)
        optimiser.zero_grad(set_to_none=True)
        rows = protected_rows(seed, step, len(pool), settings).to(pool.device)
        metrics = _gradients(target, objective, edit, rows, step)
        metrics["train/lr"] = lr * lr_factor(step, settings)
        metrics |= {f"masks/{key}": value for key, value in edit.scalars().items()}
        if on_step is not None:
            on_step(step, metrics)
        optimiser.step()
    for parameter in edit.parameters():
        parameter.grad = None
    return settings.steps
