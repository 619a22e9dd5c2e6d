"""A model entered half-way computes what the whole one does; only known families are entered."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig

from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.targets.upper import UpperLayers
from tests import tiny

SIZES = {"vocab_size": 50, "max_position_embeddings": 32}
LLAMA = LlamaConfig(
    **SIZES, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2
)
NEOX = GPTNeoXConfig(
    **SIZES, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2
)
GPT2 = GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=3, n_head=2)
IDS = torch.arange(24).reshape(2, 12)


def model(config: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


@pytest.mark.parametrize("config", [LLAMA, NEOX], ids=["llama", "gpt_neox"])
@pytest.mark.parametrize("start", [0, 1, 2])
def test_halves_give_the_whole(config: object, start: int) -> None:
    whole = model(config)
    layers = list(whole.base_model.layers)
    upper = UpperLayers(whole, start)
    assert upper.start == start
    entered = upper.enter(IDS)
    assert entered.shape == (2, 12, 16)
    expected = whole.base_model(input_ids=IDS).last_hidden_state
    torch.testing.assert_close(upper.hidden(entered), expected, atol=1e-6, rtol=1e-6)
    assert list(whole.base_model.layers) == layers


def test_position_embeddings_on_entry_are_not_added_twice() -> None:
    whole = model(GPT2)
    upper = UpperLayers(whole, 2)
    assert upper.start is None and torch.equal(upper.enter(IDS), IDS)
    expected = whole.base_model(input_ids=IDS).last_hidden_state
    torch.testing.assert_close(upper.hidden(upper.enter(IDS)), expected)


def test_an_edit_of_no_known_layer_runs_everything() -> None:
    whole = model(LLAMA)
    upper = UpperLayers(whole, None)
    assert torch.equal(upper.enter(IDS), IDS)
    expected = whole.base_model(input_ids=IDS).last_hidden_state
    torch.testing.assert_close(upper.hidden(IDS), expected)


@pytest.mark.parametrize("config", [LLAMA, NEOX], ids=["llama", "gpt_neox"])
def test_rows_of_other_shapes_get_their_own_positions(config: object) -> None:
    whole = model(config)
    upper = UpperLayers(whole, 1)
    for ids in (IDS, IDS.reshape(3, 8), IDS.reshape(1, 24), IDS):
        expected = whole.base_model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(upper.hidden(upper.enter(ids)), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["mask", "lora"])
def test_edited_upper_layers_are_the_edited_model(kind: str) -> None:
    target = tiny.target()
    parts = tiny.decomposition(target)
    key = next(SubcomponentKey(site, 0) for site in parts.sites if site.startswith("h.1."))
    method: MaskMethod | LoraMethod
    if kind == "mask":
        method = MaskMethod(target, parts, [key], start=-2.0)
    else:
        method = LoraMethod(target, parts, [key], where="selected")
        for parameter in method.parameters():
            parameter.data.normal_()
    assert method.lowest_layer == 1
    upper = UpperLayers(target.model, 1)
    assert upper.start == 1
    entered = upper.enter(IDS)
    clean = upper.hidden(entered)
    with method.edited():
        expected = target.model.base_model(input_ids=IDS).last_hidden_state
        mine = upper.hidden(entered)
    torch.testing.assert_close(mine, expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(clean, expected, atol=1e-3)
    gradients = torch.autograd.grad(mine.square().sum(), method.parameters(), allow_unused=True)
    assert any(g is not None and g.abs().max() > 0 for g in gradients)
