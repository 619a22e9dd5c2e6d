"""Layers written as a function of tensors compute what transformers' do, edited or not."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config

from pd_finetune.errors import UserError
from pd_finetune.targets.changes import baked
from pd_finetune.edits.lora import Lora
from pd_finetune.edits.mask import Mask
from pd_finetune.targets import compiled
from pd_finetune.targets.compiled import CompiledLayers, compile_layers, compiled_layers
from pd_finetune.targets.kept import kept
from pd_finetune.targets.load import Target
from pd_finetune.targets.upper import UpperLayers
from tests.methods import tiny

IDS = torch.arange(36).reshape(3, 12) * 7 % 300


@pytest.fixture
def target() -> Iterator[Target]:
    """With the functions as they stand, not compiled: what is tested here is their mathematics."""
    made = tiny.target()
    compiled._COMPILED[made.model] = CompiledLayers(made.model, compiled=False)
    yield made
    compile_layers(made.model, False)


def edit(kind: str, target: Target) -> Any:
    parts = tiny.decomposition(target)
    if kind == "mask":
        return MaskMethod(target, parts, tiny.KEYS, start=-2.0)
    method = LoraMethod(target, parts, [], rank=2, alpha=3.0)
    generator = torch.Generator().manual_seed(5)
    for parameter in method.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return method


def by_transformers(target: Target, ids: Tensor) -> Tensor:
    output: Tensor = target.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return output


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("rows", [1, 3])
def test_unedited(target: Target, start: int, rows: int) -> None:
    upper = UpperLayers(target.model, start)
    hidden = upper.hidden(upper.enter(IDS[:rows]))
    torch.testing.assert_close(hidden, by_transformers(target, IDS[:rows]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["mask", "lora"])
@pytest.mark.parametrize("rows", [1, 3])
def test_value_and_gradient_of_an_edit(target: Target, kind: str, rows: int) -> None:
    """Against the hooks on transformers' own modules."""
    method, upper = edit(kind, target), UpperLayers(target.model, 0)
    ids = IDS[:rows]
    entered = upper.enter(ids)
    clean = upper.hidden(entered)
    with method.edited():
        mine, wanted = upper.hidden(entered), by_transformers(target, ids)
        assert (wanted - clean).abs().max() > 0.01
        torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=1e-5)
        pairs = zip(
            torch.autograd.grad(mine.square().sum(), method.parameters()),
            torch.autograd.grad(wanted.square().sum(), method.parameters()),
            strict=True,
        )
    for mine, wanted in pairs:
        assert wanted.abs().max() > 0
        torch.testing.assert_close(mine, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(upper.hidden(entered), clean, atol=0, rtol=0)


def test_an_edit_within_an_edit_adds_to_it(target: Target) -> None:
    mask, lora, upper = edit("mask", target), edit("lora", target), UpperLayers(target.model, 0)
    entered = upper.enter(IDS)
    with mask.edited():
        alone = upper.hidden(entered)
        with lora.edited():
            wanted = by_transformers(target, IDS)
            torch.testing.assert_close(upper.hidden(entered), wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(upper.hidden(entered), alone, atol=0, rtol=0)


def test_baked_weights_are_seen(target: Target) -> None:
    method, upper = edit("lora", target), UpperLayers(target.model, 0)
    entered = upper.enter(IDS)
    with method.edited():
        wanted = upper.hidden(entered)
    with baked(target, method):
        mine = upper.hidden(entered)
    torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=1e-5)


def test_what_compiled_layers_gave_is_kept_apart(target: Target) -> None:
    def value(number: float) -> Tensor:
        return kept(target, ("a text",), lambda: (torch.tensor(number),))[0]

    assert value(1.0) == 1.0
    compile_layers(target.model, False)
    assert value(2.0) == 2.0 and value(3.0) == 2.0


def test_other_models_and_types_are_refused() -> None:
    config = GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    with pytest.raises(UserError, match="gpt2 in float32: use compile=false"):
        compile_layers(AutoModelForCausalLM.from_config(config), True)
    half = tiny.target().model.to(torch.bfloat16)
    with pytest.raises(UserError, match="arcee in bfloat16"):
        compile_layers(half, True)
    assert compiled_layers(half) is None


@pytest.mark.slow
def test_compiled_for_any_number_of_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is compiled anew for other rows, and a row's bits don't depend on its neighbours."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    target = tiny.target()
    method = edit("mask", target)
    plain = UpperLayers(target.model, 0)
    entered = plain.enter(IDS)
    compile_layers(target.model, True)
    upper = UpperLayers(target.model, 0)
    found = {}
    with method.edited():
        wanted = plain.hidden(entered)
        made = []
        for rows in (2, 3, 1):
            hidden = upper.hidden(entered[:rows])
            gradient = torch.autograd.grad(hidden[0].square().sum(), method.parameters())
            found[rows] = (hidden[0].detach(), *gradient)
            made.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert made[0] == made[1] == made[2] > 0
    for rows in (3, 1):
        for mine, first in zip(found[rows], found[2], strict=True):
            torch.testing.assert_close(mine, first, atol=0, rtol=0)
    torch.testing.assert_close(found[3][0], wanted[0], atol=1e-5, rtol=1e-5)
    compile_layers(target.model, False)


@pytest.mark.slow
def test_without_a_compiler_one_line_says_so(tmp_path: Path) -> None:
    words = ["compile=true", "logger=none", f"paths.runs={tmp_path / 'runs'}", "threads=1"]
    nowhere = {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "pd_finetune.run", *words],
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and "g++" in lines[0] and "compile=false" in lines[0]
    assert not list(tmp_path.glob("runs/*/result.json"))
