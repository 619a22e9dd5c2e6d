"""`compile=true`: the same losses and gradients, one region without a break."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pd_finetune.decomposition.trainer import Trainer
from tests import tiny
from tests.decomposition import parts
from tests.decomposition.test_micro_batch import RECIPES, gradients

BACKENDS = [
    "aot_eager",
    pytest.param(
        "inductor",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(
                shutil.which("g++") is None and shutil.which("clang++") is None,
                reason="inductor needs a C++ compiler",
            ),
        ],
    ),
]


def made(recompute: bool, **recipe: Any) -> Trainer:
    config = parts.config(12, **recipe | {"rows": 4})
    config.compile = True
    config.activation_checkpointing = recompute
    return parts.unsettled(Trainer(tiny.target(), config, parts.batch_at, Path()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["merged", "paper"])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_as_without(
    name: str, recompute: bool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = partial(torch.compile, backend=backend, fullgraph=True)
    monkeypatch.setattr(torch, "compile", whole)
    compiled = made(recompute, **RECIPES[name])
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    eager = made(False, **RECIPES[name])
    for step in (0, 1):
        found = []
        for trainer in (compiled, eager):
            noise = trainer._noise(step)
            batch = trainer.batch_at(step)
            result = trainer.maker.backward(batch, step, noise, trainer.parts)
            found.append((result, gradients(trainer)))
        (one, slopes), (other, expected) = found
        assert one.terms == pytest.approx(other.terms, rel=1e-4)
        for key, gradient in expected.items():
            assert (slopes[key] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-7, key
