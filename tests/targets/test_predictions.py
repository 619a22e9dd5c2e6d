"""Scores against float64 for all families; known ones are entered half-way and give the whole."""

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PhiConfig,
)

from pd_finetune.edits.edit import Material
from pd_finetune.edits.lora import Lora
from pd_finetune.edits.mask import Mask
from pd_finetune.targets import predictions as module
from pd_finetune.targets.changes import FixedChange, LowRank, edited, lowest_layer
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.targets.load import Target
from pd_finetune.targets.matrices import linear_modules, matrix_at
from pd_finetune.targets.predictions import Predictions, sequence_cross_entropies
from tests import tiny

VOCAB = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
SIZES: dict[str, Any] = {**VOCAB, "max_position_embeddings": 32, "hidden_size": 16}
SIZES |= {"num_hidden_layers": 3, "num_attention_heads": 2}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, intermediate_size=24),
    "gpt_neox": GPTNeoXConfig(**SIZES, intermediate_size=24),
    "gpt2": GPT2Config(**VOCAB, n_positions=32, n_embd=16, n_layer=3, n_head=2),
    "opt": OPTConfig(**{**SIZES, "pad_token_id": 1}, ffn_dim=24, word_embed_proj_dim=16),
    "phi": PhiConfig(**SIZES, intermediate_size=24),  # a bias on its logits
    "gemma2": Gemma2Config(  # caps its logits
        **SIZES,
        intermediate_size=24,
        head_dim=8,
        num_key_value_heads=2,
        final_logit_softcapping=2.0,
    ),
}
ENTERED = ["llama", "gpt_neox"]
IDS = torch.arange(24).reshape(2, 12)


def target_of(family: str) -> Target:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[family]).eval().requires_grad_(False)
    for parameter in model.parameters():  # no bias is zero, no norm 1
        parameter.add_(0.1 * torch.randn_like(parameter))
    return Target(model, tiny.tokenizer(), family)


def whole(target: Target, ids: torch.Tensor) -> torch.Tensor:
    states: torch.Tensor = target.model.base_model(input_ids=ids).last_hidden_state
    return states


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", CONFIGS)
def test_scores_against_float64(family: str, dtype: torch.dtype) -> None:
    target = target_of(family)
    target.model.to(dtype)
    matrices = list(linear_modules(target.model))
    path = matrices[len(matrices) // 2]  # in the second layer or above
    d_out, d_in = matrix_at(target.model, path).shape
    generator = torch.Generator().manual_seed(1)
    left, right = (
        0.5 * torch.randn(shape, generator=generator) for shape in ((d_in, 1), (1, d_out))
    )
    predictions = Predictions(target, 1, batch=1)
    assert (predictions.head.embedding is None) == (family == "gemma2")
    assert (predictions.head.bias is not None) == (family == "phi")
    rows = predictions.prepared(IDS[:, :-1], clean=True)
    with edited(target.model, FixedChange({path: LowRank(left, right)})):
        ces, kls = predictions.scores(rows, IDS[:, 1:])
        again = sequence_cross_entropies(target, IDS)
    target.model.double()
    clean = target.model(input_ids=IDS[:, :-1]).logits.log_softmax(-1)
    with edited(target.model, FixedChange({path: LowRank(left.double(), right.double())})):
        logs = target.model(input_ids=IDS[:, :-1]).logits.log_softmax(-1)
    near = 2e-5 if dtype == torch.float32 else 0.1
    wanted = -logs.gather(-1, IDS[:, 1:, None])[..., 0].mean(1)
    assert ces == pytest.approx(wanted.tolist(), abs=near)
    assert again == pytest.approx(ces, abs=near)
    wanted = (clean.exp() * (clean - logs)).sum(-1).mean(1)
    assert min(wanted) > 1e-4
    assert kls == pytest.approx(wanted.tolist(), abs=near)


@pytest.mark.parametrize("family", ENTERED)
@pytest.mark.parametrize("start", [0, 1, 2])
def test_halves_give_the_whole(family: str, start: int) -> None:
    target = target_of(family)
    layers = target.model.base_model.layers
    predictions = Predictions(target, start)
    for ids in (IDS, IDS.reshape(3, 8), IDS.reshape(1, 24)):  # each with its own positions
        entering = predictions.enter(ids)
        assert entering.shape == (*ids.shape, 16)
        found = predictions.states(entering)
        torch.testing.assert_close(found, whole(target, ids), atol=1e-6, rtol=1e-6)
    assert target.model.base_model.layers is layers and len(layers) == 3


@pytest.mark.parametrize("family, start", [("gpt2", 2), ("opt", 2), ("gemma2", 2), ("llama", None)])
def test_others_and_edits_of_no_known_layer_run_everything(family: str, start: int | None) -> None:
    target = target_of(family)
    predictions = Predictions(target, start)
    assert torch.equal(predictions.enter(IDS), IDS)
    expected = target.model(input_ids=IDS).logits if family == "gemma2" else whole(target, IDS)
    torch.testing.assert_close(predictions.states(IDS), expected)


def test_what_is_kept_is_of_this_text_and_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    target = target_of("llama")
    first = Predictions(target, 1).prepared(IDS, clean=True)
    with monkeypatch.context() as patch:
        patch.setattr(Predictions, "enter", lambda *args: pytest.fail("made again"))
        again = Predictions(target, 1).prepared(IDS.clone(), clean=True)
        assert again.entering is first.entering and again.clean is not None
    for other in (
        Predictions(target, 1).prepared(IDS.flip(0)),
        Predictions(target, 2).prepared(IDS),
        Predictions(target_of("llama"), 1).prepared(IDS),
    ):
        assert other.entering is not first.entering
    monkeypatch.setattr(module, "_KEPT_BYTES", 10)
    full = [Predictions(target, 0).prepared(IDS).entering for _ in range(2)]
    assert full[0] is not full[1]


@pytest.mark.parametrize("kind", ["mask", "lora"])
def test_edited_upper_layers_are_the_edited_model(kind: str) -> None:
    target = tiny.target()
    parts = tiny.decomposition(target)
    key = next(SubcomponentKey(site, 0) for site in parts.sites if site.startswith("h.1."))
    method: Mask | Lora
    if kind == "mask":
        method = Mask(Material(target, parts, [key]), start=-2.0)
    else:
        method = Lora(Material(target, parts, [key]), where="selected")
        for parameter in method.parameters():
            parameter.data.normal_()
    assert lowest_layer(method) == 1
    predictions = Predictions(target, 1)
    entering = predictions.enter(IDS)
    assert entering.dtype == torch.float32
    clean = predictions.states(entering)
    with edited(target.model, method):
        expected = target.model.base_model(input_ids=IDS).last_hidden_state
        mine = predictions.states(entering)
    torch.testing.assert_close(mine, expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(clean, expected, atol=1e-3)
    gradients = torch.autograd.grad(mine.square().sum(), method.parameters(), allow_unused=True)
    assert any(g is not None and g.abs().max() > 0 for g in gradients)
