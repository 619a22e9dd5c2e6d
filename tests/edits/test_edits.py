"""Runtime edits and baked weights are one function; the shared model comes back pristine."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pd_finetune.decomposition.sites import weight_at
from pd_finetune.edits.edit import Material
from pd_finetune.edits.lora import Lora
from pd_finetune.edits.mask import Mask
from pd_finetune.errors import UserError
from pd_finetune.targets.changes import bake, baked, edited, edited_weights, lowest_layer
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.targets.load import Target, weights_hash
from tests import tiny


def logits(model: nn.Module) -> Tensor:
    ids = torch.arange(24).view(2, 12) * 7 % 300
    return model(input_ids=ids, use_cache=False).logits


def moved(edit: Any) -> Any:
    """Parameters away from their start, so that the edit is one."""
    generator = torch.Generator().manual_seed(5)
    for parameter in edit.parameters():
        parameter.data += 0.5 * torch.randn(parameter.shape, generator=generator)
    return edit


def edits(target: Target) -> dict[str, Any]:
    parts = tiny.decomposition(target)
    return {
        "mask": Mask(Material(target, parts, tiny.KEYS)),
        "lora": Lora(Material(target, parts, []), rank=2, alpha=3.0),
        "selected": Lora(Material(target, parts, tiny.KEYS[:1]), rank=1, where="selected"),
    }


@pytest.mark.parametrize("name", ["mask", "lora", "selected"])
def test_baked_logits_equal_runtime_logits(name: str) -> None:
    target = tiny.target()
    clean = logits(target.model)
    edit = moved(edits(target)[name])
    baked = bake(target.model, edit)
    with edited(target.model, edit):
        runtime = logits(target.model)
    assert (runtime - clean).abs().max() > 1e-2
    torch.testing.assert_close(logits(baked), runtime, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(target.model), clean, atol=0, rtol=0)
    assert baked.lm_head.weight is baked.model.embed_tokens.weight
    assert baked.dtype == torch.float32


@pytest.mark.parametrize("name", ["mask", "lora", "selected"])
def test_baked_for_a_while_and_back(name: str) -> None:
    target = tiny.target()
    before = weights_hash(target.model)
    edit = moved(edits(target)[name])
    with edited(target.model, edit):
        runtime = logits(target.model)
    with pytest.raises(RuntimeError, match="inside"), baked(target.model, edit):
        torch.testing.assert_close(logits(target.model), runtime, atol=1e-5, rtol=1e-5)
        assert not any(module._forward_hooks for module in target.model.modules())
        raise RuntimeError("inside")
    assert weights_hash(target.model) == before


def test_16_bit_targets_are_not_baked() -> None:
    """An edit smaller than the rounding of a weight: it works, and would be lost in the weights."""
    target = tiny.target()
    target.model.bfloat16()
    edit = moved(edits(target)["mask"])
    with edited(target.model, edit):
        runtime = logits(target.model)
    with baked(target.model, edit):
        torch.testing.assert_close(logits(target.model), runtime, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["lora", "selected"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_is_what_pefts_own_layers_compute(name: str, dtype: torch.dtype) -> None:
    target = tiny.target()
    target.model.to(dtype)
    edit = moved(edits(target)[name])
    for path, layer in edit.layers.items():
        plain = target.model.get_submodule(path)
        x = torch.randn(2, 3, plain.in_features, generator=torch.Generator().manual_seed(1))
        x = x.to(dtype)
        with torch.no_grad():
            expected = layer(x)
            with edited(target.model, edit):
                actual = plain(x)
        assert actual.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)
        assert (actual - plain(x)).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["mask", "lora", "selected"])
def test_start_of_every_edit_changes_nothing(name: str) -> None:
    target = tiny.target()
    clean, before = logits(target.model), weights_hash(target.model)
    edit = edits(target)[name]
    with edited(target.model, edit):
        torch.testing.assert_close(logits(target.model), clean, atol=1e-6, rtol=0)
    assert weights_hash(bake(target.model, edit)) == before


@pytest.mark.parametrize("name", ["mask", "lora", "selected"])
def test_shared_model_is_pristine_outside_of_the_edit(name: str, tmp_path: Path) -> None:
    target = tiny.target()
    modules = dict(target.model.named_modules())
    before = weights_hash(target.model)
    edit = edits(target)[name]
    with pytest.raises(RuntimeError, match="inside"), edited(target.model, edit):
        raise RuntimeError("inside")
    edit.save(tmp_path)
    after = dict(target.model.named_modules())
    assert list(after) == list(modules)
    assert all(after[path] is module for path, module in modules.items())
    assert weights_hash(target.model) == before
    assert not any(parameter.requires_grad for parameter in target.model.parameters())
    assert not hasattr(target.model, "peft_config")
    assert not any(module._forward_hooks for module in target.model.modules())


def test_mask_is_the_formula_of_the_write_up() -> None:
    target = tiny.target()
    parts = tiny.decomposition(target)
    edit = Mask(Material(target, parts, tiny.KEYS))
    for parameter, m in zip(edit.parameters(), (-1.5, 0.25), strict=True):
        parameter.data.fill_(m)
    for key, m in zip(tiny.KEYS, (-1.5, 0.25), strict=True):
        site = parts.sites[key.site]
        V, U = parts.vectors(key)
        expected = weight_at(target.model, site).double() + (m - 1) * torch.outer(
            U.double(), V.double()
        )
        torch.testing.assert_close(
            edited_weights(target.model, edit)[site.module].double(), expected, atol=1e-6, rtol=1e-6
        )
    assert lowest_layer(edit) == 0
    assert edit.trainable_count == 2


def test_mask_gradient_matches_finite_differences() -> None:
    target = tiny.target()
    target.model.double()
    edit = Mask(Material(target, tiny.decomposition(target), tiny.KEYS[:1]), start=0.5)

    def loss() -> Tensor:
        with edited(target.model, edit):
            return logits(target.model).double().square().mean()

    loss().backward()
    (parameter,) = edit.parameters()
    assert parameter.grad is not None
    with torch.no_grad():
        parameter += 0.05
        above = loss()
        parameter -= 0.1
        slope = (above - loss()) / 0.1
    torch.testing.assert_close(parameter.grad[0].double(), slope, rtol=1e-2, atol=1e-6)


def test_mask_saves_scale_by_key(tmp_path: Path) -> None:
    target = tiny.target()
    edit = moved(Mask(Material(target, tiny.decomposition(target), tiny.KEYS)))
    edit.save(tmp_path)
    assert json.loads((tmp_path / "mask.json").read_text()) == edit.scalars()
    assert list(edit.scalars()) == [str(key) for key in tiny.KEYS]


def test_lora_file_loads_in_peft(tmp_path: Path) -> None:
    from peft import PeftModel

    target = tiny.target()
    edit = moved(Lora(Material(target, tiny.decomposition(target), []), rank=2, alpha=4.0))
    edit.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "edit.safetensors",
        "adapter_model.safetensors",
        "adapter_config.json",
    }
    with edited(target.model, edit):
        runtime = logits(target.model)
    loaded = PeftModel.from_pretrained(tiny.target().model, str(tmp_path))
    torch.testing.assert_close(logits(loaded), runtime, atol=1e-5, rtol=1e-5)


def test_lora_counts_and_places() -> None:
    target = tiny.target()
    parts = tiny.decomposition(target)
    every = Lora(Material(target, parts, []), rank=3)
    assert every.trainable_count == sum(3 * (s.d_in + s.d_out) for s in parts.sites.values())
    one = Lora(Material(target, parts, tiny.KEYS[:1]), rank=1, where="selected")
    assert one.trainable_count == 16 + 32
    assert one.describe()["sites"] == ["h.1.mlp.c_fc"]
    assert lowest_layer(one) == 1


def test_lora_start_follows_the_seed_and_leaves_the_global_generator() -> None:
    target = tiny.target()
    parts = tiny.decomposition(target)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first, again, other = (Lora(Material(target, parts, [], seed=seed)) for seed in (1, 1, 2))
    torch.testing.assert_close(torch.rand(1), expected)
    torch.testing.assert_close(first.parameters()[0], again.parameters()[0])
    assert not torch.equal(first.parameters()[0], other.parameters()[0])


def test_users_mistakes_are_named() -> None:
    target = tiny.target()
    parts = tiny.decomposition(target)
    with pytest.raises(UserError, match="selection"):
        Lora(Material(target, parts, []), where="selected")
    with pytest.raises(UserError, match="empty"):
        Mask(Material(target, parts, []))
    with pytest.raises(UserError, match="more than once"):
        Mask(Material(target, parts, [tiny.KEYS[0], tiny.KEYS[0]]))
    with pytest.raises(UserError, match="from 0 to 5"):
        Mask(Material(target, parts, [SubcomponentKey("h.1.mlp.c_fc", 6)]))
