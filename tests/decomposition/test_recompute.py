"""Activation checkpointing: the same bits, fewer kept activations, a model left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pd_finetune.decomposition.recompute import blocks_of
from pd_finetune.decomposition.trainer import Trainer
from tests import tiny
from tests.decomposition import parts
from tests.decomposition.test_micro_batch import RECIPES, gradients, made


def kept_bytes(trainer: Trainer) -> int:
    """Bytes of the distinct tensors that a step's loss keeps for its backward."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        alive.append(tensor)
        return tensor

    alive: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.maker.loss(trainer.batch_at(5), 5, trainer._noise(5))
    return sum(kept.values())


def recomputing(**recipe: Any) -> Trainer:
    trainer = made(0, **recipe)
    trainer.maker.recompute = trainer.ci_function.recompute = True
    return trainer


@pytest.mark.parametrize("name", ["merged", "paper", "no adversary"])
def test_bit_for_bit(name: str) -> None:
    plain, other = made(0, **RECIPES[name]), recomputing(**RECIPES[name])
    for _ in range(2):
        noise = plain._noise(plain.step)
        batch = plain.batch_at(plain.step)
        for trainer in (plain, other):
            trainer.maker.backward(batch, trainer.step, noise, trainer.parts)
        one, two = gradients(plain), gradients(other)
        assert set(one) == set(two) and all(torch.equal(one[n], two[n]) for n in one)
        for trainer in (plain, other):
            trainer.optimiser.zero_grad()
        assert plain.train_step().terms == other.train_step().terms
    states = [t.components.state_dict() for t in (plain, other)]
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])


@pytest.mark.parametrize("name", ["merged", "paper"])
def test_less_is_kept(name: str) -> None:
    assert kept_bytes(recomputing(**RECIPES[name])) < 0.75 * kept_bytes(made(0, **RECIPES[name]))


def test_the_config_turns_it_on() -> None:
    config = parts.config()
    config.activation_checkpointing = True
    trainer = Trainer(tiny.target(), config, parts.batch_at, Path())
    assert trainer.maker.recompute and trainer.ci_function.recompute
    trainer.train_step()
    assert not [m for m in trainer.target.model.modules() if "forward" in vars(m)]


def test_blocks_are_the_decoder_layers() -> None:
    trainer = made(0)
    found = blocks_of(trainer.target.model, trainer.components)
    layers: Any = trainer.target.model.base_model
    assert found == list(layers.layers)
