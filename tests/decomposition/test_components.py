"""Masked forwards against Delta made explicitly in float64; hooks that leave no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from pd_finetune.decomposition.components import (
    SiteMask,
    Subcomponents,
    recorded_inputs,
    shared_inputs,
)
from pd_finetune.decomposition.initialise import initialise
from pd_finetune.decomposition.reconstruction import Reconstruction
from pd_finetune.decomposition.sites import find_sites, module_at
from tests import families, tiny
from tests.decomposition import parts

NEOX = {
    "gpt_neox.layers.*.attention.query_key_value": 7,
    "gpt_neox.layers.*.attention.dense": 9,
    "gpt_neox.layers.*.mlp.*": 11,
}


def arcee() -> tuple[nn.Module, Subcomponents]:
    model = tiny.target().model
    return model.double(), parts.random_components(find_sites(model, parts.SITES)).double()


def neox() -> tuple[nn.Module, Subcomponents]:
    """Every matrix has a bias, none of them zero."""
    torch.manual_seed(3)
    shape = GPTNeoXConfig(
        vocab_size=300,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=20,
        max_position_embeddings=32,
    )
    model = GPTNeoXForCausalLM(shape).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0.0, 0.4)
    return model.double(), parts.random_components(find_sites(model, NEOX)).double()


def gpt2() -> tuple[nn.Module, Subcomponents]:
    """Its weights are [d_in, d_out]."""
    model = families.model("gpt2")
    sites = find_sites(model, families.PATTERNS["gpt2"])
    return model.double(), parts.random_components(sites).double()


MODELS = {"arcee": arcee, "neox with biases": neox, "gpt2": gpt2}


def logits(model: nn.Module) -> Tensor:
    return model(input_ids=parts.IDS, use_cache=False).logits


def random_masks(components: Subcomponents, delta: bool, route: bool) -> dict[str, SiteMask]:
    g = torch.Generator().manual_seed(4)
    shape = tuple(parts.IDS.shape)
    return {
        name: SiteMask(
            torch.rand((*shape, site.C), generator=g, dtype=torch.float64),
            torch.rand(shape, generator=g, dtype=torch.float64) if delta else None,
            torch.rand(shape, generator=g) < 0.5 if route else None,
        )
        for name, site in components.sites.items()
    }


def plain_forward(
    model: nn.Module, components: Subcomponents, masks: dict[str, SiteMask]
) -> Callable[[], Tensor]:
    """The same masked model with its matrices replaced by loops over rows, positions and c."""
    changed = copy.deepcopy(model)

    class Plain(nn.Module):
        def __init__(self, name: str, original: nn.Linear) -> None:
            super().__init__()
            self.name, self.original = name, original

        def forward(self, x: Tensor) -> Tensor:
            how, W, bias = masks[self.name], self.original.weight, self.original.bias
            W = W if isinstance(self.original, nn.Linear) else W.T
            V, U = components.V(self.name), components.U(self.name)
            Delta = W - (V @ U).T
            out = torch.zeros(*x.shape[:-1], W.shape[0], dtype=torch.float64)
            for b in range(x.shape[0]):
                for t in range(x.shape[1]):
                    if how.route is not None and not how.route[b, t]:
                        out[b, t] = W @ x[b, t]
                    else:
                        for c in range(V.shape[1]):
                            out[b, t] += how.mask[b, t, c] * (x[b, t] @ V[:, c]) * U[c]
                        if how.delta is not None:
                            out[b, t] += how.delta[b, t] * (Delta @ x[b, t])
                    if bias is not None:
                        out[b, t] += bias
            return out

    for name, site in components.sites.items():
        changed.set_submodule(site.module, Plain(name, module_at(changed, site)))
    return lambda: logits(changed)


@torch.no_grad()
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize(
    ("delta", "route"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_masked_forward_against_loops(
    make: Callable[[], tuple[nn.Module, Subcomponents]], delta: bool, route: bool
) -> None:
    model, components = make()
    masks = random_masks(components, delta, route)
    expected = plain_forward(model, components, masks)()
    with components.masked(model, masks):
        actual = logits(model)
    assert (expected - logits(model)).abs().max() > 0.1
    torch.testing.assert_close(actual, expected, atol=1e-9, rtol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_masks_shared_by_all_positions_are_another_weight(
    make: Callable[[], tuple[nn.Module, Subcomponents]],
) -> None:
    """(V diag(m) U)^T + delta Delta in place of W, no hook anywhere."""
    model, components = make()
    generator = torch.Generator().manual_seed(5)
    changed, masks = copy.deepcopy(model), {}
    for name, site in components.sites.items():
        m = torch.rand(site.C, generator=generator, dtype=torch.float64) * 3 - 1
        delta = torch.rand((), generator=generator, dtype=torch.float64)
        masks[name] = SiteMask(m, delta)
        V, U = components.V(name), components.U(name)
        module = module_at(changed, site)
        weight = module.weight if isinstance(module, nn.Linear) else module.weight.T
        weight.copy_((V @ torch.diag(m) @ U).T + delta * (weight - (V @ U).T))
    with components.masked(model, masks):
        actual = logits(model)
    torch.testing.assert_close(actual, logits(changed), atol=1e-9, rtol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_everything_on_is_the_target(
    make: Callable[[], tuple[nn.Module, Subcomponents]],
) -> None:
    model, components = make()
    clean = logits(model)
    one = torch.ones((), dtype=torch.float64)
    masks = {name: SiteMask(one.expand(site.C), one) for name, site in components.sites.items()}
    with components.masked(model, masks):
        torch.testing.assert_close(logits(model), clean, atol=1e-10, rtol=1e-10)
    without = {name: SiteMask(how.mask) for name, how in masks.items()}
    with components.masked(model, without):
        assert (logits(model) - clean).abs().max() > 0.1  # V and U are random: Delta matters
    nowhere = torch.zeros(parts.IDS.shape, dtype=torch.bool)
    unrouted = {name: SiteMask(how.mask * 0, None, nowhere) for name, how in masks.items()}
    with components.masked(model, unrouted):
        torch.testing.assert_close(logits(model), clean, atol=0, rtol=0)


def test_gradients_of_V_U_and_masks_against_explicit_delta() -> None:
    model, components = arcee()
    name = "h.1.attn.v_proj"
    masks = random_masks(components, delta=True, route=False)
    leaves = [components.V(name), components.U(name), masks[name].mask, masks[name].delta]
    assert all(isinstance(leaf, Tensor) for leaf in leaves)
    for leaf in leaves:
        leaf.requires_grad_(True)
    module = module_at(model, components.sites[name])
    x = torch.randn(*parts.IDS.shape, module.in_features, dtype=torch.float64)
    weights = torch.randn(*parts.IDS.shape, module.out_features, dtype=torch.float64)
    with components.masked(model, masks):
        actual = torch.autograd.grad((module(x) * weights).sum(), leaves)
    V, U, mask, delta = leaves
    y = ((x @ V) * mask) @ U + delta[..., None] * (x @ (module.weight - (V @ U).T).T)
    expected = torch.autograd.grad((y * weights).sum(), leaves)
    torch.testing.assert_close(actual, expected, atol=1e-9, rtol=1e-9)


def test_delta_is_what_V_and_U_leave() -> None:
    model, components = neox()
    for name, site in components.sites.items():
        whole = (components.V(name) @ components.U(name)).T + components.delta(model, name)
        torch.testing.assert_close(whole, module_at(model, site).weight)


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_hooks_are_gone_afterwards_and_on_failure() -> None:
    model, components = arcee()
    masks = random_masks(components, delta=True, route=False)
    before = hooks(model)
    with components.masked(model, masks):
        assert hooks(model) == before + len(components.sites)
    assert hooks(model) == before
    with pytest.raises(RuntimeError, match="inside"), components.masked(model, masks):
        raise RuntimeError("inside")
    assert hooks(model) == before
    with pytest.raises(KeyError), components.masked(model, {**masks, "no.such.site": None}):
        pass
    assert hooks(model) == before
    with pytest.raises(RuntimeError, match="inside"), recorded_inputs(model, components.sites):
        assert hooks(model) == before + len(components.sites)
        raise RuntimeError("inside")
    assert hooks(model) == before


@torch.no_grad()
def test_recorded_inputs() -> None:
    model, components = arcee()
    with recorded_inputs(model, components.sites) as inputs:
        assert not inputs
        clean = logits(model)
    assert set(inputs) == set(components.sites)
    torch.testing.assert_close(clean, logits(model), atol=0, rtol=0)
    layer = model.model.layers[0]
    normed = layer.input_layernorm(model.model.embed_tokens(parts.IDS))
    torch.testing.assert_close(inputs["h.0.attn.q_proj"], normed)
    for i, layer in enumerate(model.model.layers):
        inner = layer.mlp.act_fn(layer.mlp.up_proj(inputs[f"h.{i}.mlp.c_fc"]))
        torch.testing.assert_close(inputs[f"h.{i}.mlp.down_proj"], inner)
    some = {"h.1.attn.k_proj", "h.0.mlp.c_fc"}
    with recorded_inputs(model, components.sites, some) as fewer:
        logits(model)
    assert set(fewer) == some


def test_shared_inputs_are_those_of_q_k_and_v() -> None:
    model, components = arcee()
    reads = shared_inputs(model, components.sites, parts.IDS)
    assert set(reads) == set(components.sites)
    groups: dict[str, set[str]] = {}
    for name, first in reads.items():
        groups.setdefault(first, set()).add(name)
    expected = []
    for i in range(2):
        expected += [{f"h.{i}.attn.{p}_proj" for p in "qkv"}]
        expected += [{f"h.{i}.{name}"} for name in ("attn.o_proj", "mlp.c_fc", "mlp.down_proj")]
    assert sorted(map(sorted, groups.values())) == sorted(map(sorted, expected))
    assert all(first in members for first, members in groups.items())
    model, components = neox()  # one matrix for q, k and v: nothing to share
    reads = shared_inputs(model, components.sites, parts.IDS)
    assert reads == {name: name for name in components.sites}


@pytest.mark.parametrize(("delta", "route"), [(False, False), (True, True)])
def test_divergence_of_a_masked_model(delta: bool, route: bool) -> None:
    """Concatenated masks reach their sites in sorted order; KL is that of the model's logits."""
    target = tiny.target()
    model, components = target.model, parts.random_components(parts.sites_of(target))
    ci_function = parts.ci_function(model, components.sites)
    g = torch.Generator().manual_seed(6)
    names, shape = sorted(components.sites), tuple(parts.IDS.shape)
    mask = torch.rand((*shape, sum(s.C for s in components.sites.values())), generator=g)
    deltas = torch.rand((*shape, len(names)), generator=g) if delta else None
    routes = torch.rand((*shape, len(names)), generator=g) < 0.5 if route else None
    with torch.no_grad():
        recon = Reconstruction(model, components, ci_function, parts.IDS)
        actual = parts.divergence(recon, mask, deltas, routes)
        clean = logits(model.double()).log_softmax(-1)
        masks, offset = {}, 0
        for i, name in enumerate(names):
            C = components.sites[name].C
            masks[name] = SiteMask(
                mask[..., offset : offset + C].double(),
                None if deltas is None else deltas[..., i].double(),
                None if routes is None else routes[..., i],
            )
            offset += C
        masked = plain_forward(model, components.double(), masks)().log_softmax(-1)
    expected = (clean.exp() * (clean - masked)).sum(-1)
    assert expected.min() > 1e-3
    torch.testing.assert_close(actual.double(), expected, atol=1e-4, rtol=1e-4)


def test_exact_start_has_no_divergence_without_delta() -> None:
    target = tiny.target()
    components = Subcomponents(parts.sites_of(target))
    ci_function = parts.ci_function(target.model, components.sites)
    initialise(components, target.model, 0)
    with torch.no_grad():
        recon = Reconstruction(target.model, components, ci_function, parts.IDS)
        ones = torch.ones(*parts.IDS.shape, sum(ci_function.C))
        assert parts.divergence(recon, ones).abs().max() < 1e-6
        assert parts.divergence(recon, ones * 0).mean() > 0.1


def test_divergence_of_a_model_that_scales_its_logits() -> None:
    """Right or refused: Granite divides its logits, Gemma caps them, Cohere scales them."""
    from transformers import GraniteConfig, GraniteForCausalLM

    torch.manual_seed(0)
    shape = GraniteConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        logits_scaling=4.0,
    )
    model = GraniteForCausalLM(shape).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0.0, 0.4)
    sites = find_sites(model, {"h.*.mlp.down_proj": 9})
    components, function = parts.random_components(sites), parts.ci_function(model, sites)
    half = torch.full((*parts.IDS.shape, 9), 0.5)
    with torch.no_grad():
        recon = Reconstruction(model, components, function, parts.IDS)
        actual = parts.divergence(recon, half)
        clean = logits(model).log_softmax(-1)
        with components.masked(model, {"h.0.mlp.down_proj": SiteMask(half)}):
            masked = logits(model).log_softmax(-1)
    torch.testing.assert_close(actual, (clean.exp() * (clean - masked)).sum(-1))
