"""The one training loop: same objective, steps, decay and stop rule for every method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from pd_finetune.config import ObjectiveConfig
from pd_finetune.errors import TrainingError
from pd_finetune.finetuning.objective import Objective
from pd_finetune.methods.protocol import Method
from pd_finetune.targets.load import Target
from pd_finetune.text.budget import TargetSample

OnStep = Callable[[int, dict[str, float]], None]


@dataclass
class FinetuneResult:
    """What a fine-tune did: metrics before each step's update, and where it ended."""

    steps: int
    stopped_early: bool
    seconds: float
    history: list[dict[str, float]] = field(default_factory=list)


def lr_factor(step: int, settings: ObjectiveConfig) -> float:
    """Share of the method's learning rate at a step counted from 0: linear, 0 after the last."""
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
    objective: Objective, method: Method, rows: Int[Tensor, " rows"], step: int
) -> dict[str, float]:
    """Add the gradient of the whole objective to the parameters; returns its terms."""
    windows = objective.windows(rows)
    positions = windows.entering.shape[:2].numel()
    ce_sum = hinge_sum = kl_value = 0.0
    with method.edited():
        for part, protected in objective.forwards(windows):
            ce, kl = objective.terms(part, protected)
            hinge, kl_part = objective.hinge(ce).sum(), kl.sum() / positions
            ce_sum += _finite(step, "target cross-entropy", ce.sum().item())
            kl_value += _finite(step, "protected KL", kl_part.item())
            hinge_sum += hinge.item()
            loss = hinge / objective.target_tokens + objective.kl_weight * kl_part
            loss.backward()
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    _finite(step, "gradient norm", torch.nn.utils.get_total_norm(gradients).item())
    hinge_mean = hinge_sum / objective.target_tokens
    return {
        "train/target_ce_nats": ce_sum / objective.target_tokens,
        "train/hinge_nats": hinge_mean,
        "train/protected_kl_nats": kl_value,
        "train/loss_nats": hinge_mean + objective.kl_weight * kl_value,
    }


def finetune(
    target: Target,
    method: Method,
    sample: TargetSample,
    pool: Int[Tensor, "pool tokens"],
    settings: ObjectiveConfig,
    seed: int,
    on_step: OnStep | None = None,
    progress: bool = False,
) -> FinetuneResult:
    """Train the method's parameters in place; the target's model is clean before and after.

    Adam without weight decay at `method.lr`. `on_step(step, metrics)` is called once a step with
    the values before its update. Stops early once the sample's mean hinge has been at or below
    `stop_gap_nats` for `patience` steps (never where that is 0).

    Raises:
        TrainingError: a term is not finite.
    """
    started = time.monotonic()
    objective = Objective(target, sample, pool, settings.kl_weight, method.lowest_layer)
    optimiser = torch.optim.Adam(method.parameters(), lr=method.lr, fused=True)
    result = FinetuneResult(0, False, 0.0)
    reached = 0
    for step in tqdm(
        range(settings.steps), desc=method.name, unit="step", disable=not progress, leave=False
    ):
        lr = method.lr * lr_factor(step, settings)
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.zero_grad(set_to_none=True)
        rows = protected_rows(seed, step, len(pool), settings).to(pool.device)
        metrics = _gradients(objective, method, rows, step)
        metrics["train/lr"] = lr
        metrics |= {f"masks/{key}": value for key, value in method.scalars().items()}
        result.history.append(metrics)
        if on_step is not None:
            on_step(step, metrics)
        reached = reached + 1 if metrics["train/hinge_nats"] <= settings.stop_gap_nats else 0
        if settings.stop_gap_nats > 0 and reached >= settings.patience:
            result.stopped_early = True
            break
        optimiser.step()
        result.steps = step + 1
    for parameter in method.parameters():
        parameter.grad = None
    result.seconds = time.monotonic() - started
    return result
