"""A toy's inputs, and training it: a function of configuration and seed alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from jaxtyping import Float
from torch import Tensor

from pd_finetune.decomposition.config import RecipeConfig
from pd_finetune.decomposition.toy_config import ToyConfig
from pd_finetune.errors import TrainingError, UserError
from pd_finetune.files import replacing
from pd_finetune.toys.model import ToyModel, ToyTarget

TARGET, DECOMPOSITION, HELD_OUT = range(3)  # streams of inputs that share no numbers


@dataclass(frozen=True)
class SparseFeatures:
    """Inputs in which each feature is active by itself, uniform in [low, 1], and 0 elsewhere."""

    features: int
    probability: float
    low: float
    seed: int

    def batch(
        self, stream: int, step: int, rows: int, positions: int
    ) -> Float[Tensor, "rows pos features"]:
        """The inputs of a step, a function of seed, stream and step; every position a sample."""
        entropy = np.random.SeedSequence((self.seed, stream, step))
        seed = int(entropy.generate_state(1, np.uint64)[0] >> 1)
        generator = torch.Generator().manual_seed(seed)
        shape = (rows, positions, self.features)
        value = self.low + (1 - self.low) * torch.rand(shape, generator=generator)
        return value * (torch.rand(shape, generator=generator) < self.probability)


def inputs_of(toy: ToyConfig, seed: int) -> SparseFeatures:
    """The inputs of a toy."""
    return SparseFeatures(toy.model.features, toy.probability, toy.low, seed)


def new_toy(toy: ToyConfig, seed: int) -> ToyModel:
    """An untrained toy; torch's own random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = instantiate(asdict(toy.model))
    assert isinstance(model, ToyModel)
    return model


def train_toy(toy: ToyConfig, seed: int) -> tuple[ToyModel, float]:
    """Train a toy by MSE (mean over samples and outputs); returns the last hundred steps' mean.

    Raises:
        TrainingError: the loss is not finite.
    """
    model, inputs, training = new_toy(toy, seed), inputs_of(toy, seed), toy.training
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=training.lr)
    losses = []
    for step in range(training.steps):
        for group in optimiser.param_groups:
            group["lr"] = training.lr * (1 - step / training.steps)
        x = inputs.batch(TARGET, step, 1, training.samples)
        out = torch.func.functional_call(model, model.constrained(), (x,))
        loss = (out - model.wanted(x)).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if not np.isfinite(losses[-1]):
            raise TrainingError(
                f"the toy's loss is {losses[-1]} at step {step}: lower toy.training.lr"
            )
    with torch.no_grad():
        for name, weight in model.constrained().items():
            model.get_parameter(name).copy_(weight)
    return model, float(np.mean(losses[-100:]))


def trained_toy(
    toy: ToyConfig, seed: int, folder: Path, device: torch.device, save: bool = True
) -> tuple[ToyTarget, dict[str, Any]]:
    """The trained toy of a folder: read where it is already there, else trained and written.

    Always on the CPU, where it takes seconds, so that every device decomposes the same weights.

    Args:
        save: write it (one of several processes does).

    Raises:
        UserError: the folder holds a toy of another configuration or seed.
    """
    from safetensors import safe_open
    from safetensors.torch import load_model, save_model

    path = folder / "toy.safetensors"
    config = {k: v for k, v in asdict(toy).items() if k != "sites"}
    identity = json.dumps({"toy": config, "seed": seed}, sort_keys=True)
    if path.is_file():
        with safe_open(path, "pt") as handle:
            found = handle.metadata() or {}
        if found.get("identity") != identity:
            raise UserError(
                f"'{path}' is a toy of other settings or another seed: give another out=, "
                "or delete the folder"
            )
        model, mse = new_toy(toy, seed), float(found["mse"])
        load_model(model, path)
    else:
        model, mse = train_toy(toy, seed)
        if save:
            with replacing(path) as temporary:
                save_model(model, str(temporary), {"identity": identity, "mse": repr(mse)})
    record = {"mse": mse, "identity": hashlib.sha256(identity.encode()).hexdigest()}
    return ToyTarget(model.to(device), toy.name), record


def toy_task(
    toy: ToyConfig,
    recipe: RecipeConfig,
    held_out_rows: int,
    seed: int,
    folder: Path,
    device: torch.device,
    save: bool = True,
) -> tuple[ToyTarget, Callable[[int], Tensor], Tensor, dict[str, Any]]:
    """The trained toy, its batches by step, held-out inputs, and what the record says of it.

    Raises:
        UserError: as `trained_toy`.
    """
    target, training = trained_toy(toy, seed, folder, device, save)
    inputs = inputs_of(toy, seed)

    def batch_at(step: int) -> Tensor:
        return inputs.batch(DECOMPOSITION, step, recipe.rows, recipe.window)

    held_out = inputs.batch(HELD_OUT, 0, held_out_rows, recipe.window).to(device)
    return target, batch_at, held_out, {"toy": {"name": toy.name, **training}}
