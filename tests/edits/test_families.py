"""GPT-NeoX, Llama and GPT-2 (weights [d_in, d_out]): sites, edits and adapters against float64."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pd_finetune.decomposition.components import SiteMask, Subcomponents
from pd_finetune.decomposition.initialise import initialise
from pd_finetune.decomposition.sites import find_sites, full_rank_sites, weight_at
from pd_finetune.edits.edit import Material
from pd_finetune.edits.lora import Lora
from pd_finetune.edits.mask import Mask
from pd_finetune.errors import UserError
from pd_finetune.loading.target import load_target
from pd_finetune.targets.changes import bake, edited, edited_weights
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.targets.load import Target
from tests import families

FAMILIES = list(families.MAKE)
SHAPES = {  # (d_in, d_out) of the first layer's matrices
    "gpt_neox": {
        "gpt_neox.layers.0.attention.query_key_value": (16, 48),
        "gpt_neox.layers.0.attention.dense": (16, 16),
        "gpt_neox.layers.0.mlp.dense_h_to_4h": (16, 24),
        "gpt_neox.layers.0.mlp.dense_4h_to_h": (24, 16),
    },
    "llama": {
        "h.0.attn.q_proj": (16, 16),
        "h.0.attn.k_proj": (16, 8),
        "h.0.attn.v_proj": (16, 8),
        "h.0.attn.o_proj": (16, 16),
        "h.0.mlp.gate_proj": (16, 24),
        "h.0.mlp.c_fc": (16, 24),
        "h.0.mlp.down_proj": (24, 16),
    },
    "gpt2": {
        "transformer.h.0.attn.c_attn": (16, 48),
        "transformer.h.0.attn.c_proj": (16, 16),
        "transformer.h.0.mlp.c_fc": (16, 24),
        "transformer.h.0.mlp.c_proj": (24, 16),
    },
}


def logits(model: nn.Module) -> Tensor:
    return model(input_ids=torch.arange(24).view(2, 12) * 7 % 300, use_cache=False).logits


def reference(target: Target, changes: dict[str, Tensor]) -> Tensor:
    """Logits in float64 with W + change [d_out, d_in] in place of each W, by module path."""
    model = copy.deepcopy(target.model).double()
    for path, change in changes.items():
        weight: Any = model.get_submodule(path).weight
        weight += change.T if target.name == "gpt2" else change
    return logits(model)


def keys_of(family: str) -> list[SubcomponentKey]:
    names = list(SHAPES[family])
    return [
        SubcomponentKey(names[0], 3),
        SubcomponentKey(names[0], 5),
        SubcomponentKey(names[-1], 0),
    ]


def moved(edit: Any) -> Any:
    generator = torch.Generator().manual_seed(5)
    for parameter in edit.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return edit


def edit_of(name: str, target: Target) -> Any:
    parts, keys = families.decomposition(target), keys_of(target.name)
    if name == "mask":
        return moved(Mask(Material(target, parts, keys)))
    where = "selected" if name == "localized" else "all"
    return moved(Lora(Material(target, parts, keys), rank=2, alpha=3.0, where=where))


def changes_of(edit: Any, target: Target) -> dict[str, Tensor]:
    """What an edit adds to each matrix, from its parameters alone, in float64."""
    parts = families.decomposition(target)
    if isinstance(edit, Mask):
        found: dict[str, Any] = {}
        for key, m in edit.scalars().items():
            parsed = SubcomponentKey.parse(key)
            V, U = parts.vectors(parsed)
            path = parts.sites[parsed.site].module
            found[path] = found.get(path, 0) + (m - 1) * torch.outer(U.double(), V.double())
        return found
    return {
        path: 1.5
        * layer.lora_B["default"].weight.double()
        @ layer.lora_A["default"].weight.double()
        for path, layer in edit.layers.items()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_are_found_by_pattern(family: str) -> None:
    model = families.model(family)
    sites = find_sites(model, families.PATTERNS[family])
    assert len(sites) == 2 * len(SHAPES[family])
    for name, (d_in, d_out) in SHAPES[family].items():
        assert (sites[name].d_in, sites[name].d_out) == (d_in, d_out)
        assert weight_at(model, sites[name]).shape == (d_out, d_in)
    ranks = {name: min(shape) for name, shape in SHAPES[family].items()}
    assert ranks.items() <= full_rank_sites(model).items()
    assert full_rank_sites(model).keys() == sites.keys()
    with pytest.raises(
        UserError, match=f"'zz.*' matches no matrix; there are: {next(iter(sorted(sites)))}"
    ):
        find_sites(model, {"zz.*": 3})


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_first_decomposition_is_exact(family: str) -> None:
    model = families.model(family).double()
    sites = find_sites(model, full_rank_sites(model))
    components = Subcomponents(sites).double()
    initialise(components, model, seed=0)
    assert max(components.delta(model, name).abs().max() for name in sites) < 1e-6
    masks = {
        name: SiteMask(torch.ones(site.C, dtype=torch.float64)) for name, site in sites.items()
    }
    with components.masked(model, masks):
        masked = logits(model)
    torch.testing.assert_close(masked, logits(model), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_masked_forward_is_the_masked_weight(family: str) -> None:
    """(V diag(m) U)^T + delta Delta in float64, no hook; the masked forward runs in float32."""
    target = families.target(family)
    parts = families.decomposition(target)
    generator = torch.Generator().manual_seed(6)
    masks, changes = {}, {}
    for name, site in parts.sites.items():
        m, delta = torch.rand(site.C, generator=generator), torch.rand((), generator=generator)
        masks[name] = SiteMask(m, delta)
        V, U = (part(name).double() for part in (parts.components.V, parts.components.U))
        stored = target.model.get_submodule(site.module).weight.double()
        W = stored.T if family == "gpt2" else stored
        Delta = W - (V @ U).T
        changes[site.module] = (V @ torch.diag(m.double()) @ U).T + delta.double() * Delta - W
    with parts.components.masked(target.model, masks):
        actual = logits(target.model)
    expected = reference(target, changes)
    assert (expected - logits(target.model)).abs().max() > 0.5
    torch.testing.assert_close(actual.double(), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mask", "lora", "localized"])
@pytest.mark.parametrize("family", FAMILIES)
def test_baked_runtime_and_formula_agree(family: str, name: str) -> None:
    target = families.target(family)
    clean = logits(target.model)
    edit = edit_of(name, target)
    expected = reference(target, changes_of(edit, target))
    with edited(target.model, edit):
        runtime = logits(target.model)
    baked = logits(bake(target.model, edit))
    assert (runtime - clean).abs().max() > 1e-2
    torch.testing.assert_close(baked, runtime, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(baked.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(target.model), clean, atol=0, rtol=0)
    sites = families.decomposition(target).sites.values()
    shapes = {site.module: (site.d_out, site.d_in) for site in sites}
    for path, weight in edited_weights(target.model, edit).items():
        assert tuple(weight.shape) == shapes[path]


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_loads_in_peft(family: str, tmp_path: Path) -> None:
    from peft import PeftConfig, PeftModel

    target = families.target(family)
    edit = edit_of("lora", target)
    edit.save(tmp_path)
    with edited(target.model, edit):
        runtime = logits(target.model)
    config: Any = PeftConfig.from_pretrained(str(tmp_path))
    assert config.fan_in_fan_out == (family == "gpt2")
    loaded = PeftModel.from_pretrained(families.target(family).model, str(tmp_path))
    torch.testing.assert_close(logits(loaded), runtime, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_loaded_as_it_is(family: str, tmp_path: Path) -> None:
    loaded = load_target(str(families.folder(family, tmp_path)))
    made = families.target(family)
    assert loaded.hash == made.hash and loaded.context == 64
    torch.testing.assert_close(logits(loaded.model), logits(made.model), atol=1e-5, rtol=1e-5)
