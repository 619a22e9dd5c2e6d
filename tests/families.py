"""Tiny random models of other families, no weight of which is zero: norms and biases too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from pd_finetune.decomposition.ci_function import CIFunction, CIFunctionConfig
from pd_finetune.decomposition.components import Subcomponents, shared_inputs
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.sites import find_sites
from pd_finetune.targets.load import Target
from tests import tiny

SIZE = CIFunctionConfig(width=16, blocks=1, heads=2, mlp_width=16)


def _gpt_neox(vocab: int) -> Any:
    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(vocab_size=vocab, intermediate_size=24, max_position_embeddings=64, **shape)
    )


def _llama(vocab: int) -> Any:
    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab, tie_word_embeddings=False, **shape))


def _gpt2(vocab: int) -> Any:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab,
            n_positions=64,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_inner=24,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


MAKE = {"gpt_neox": _gpt_neox, "llama": _llama, "gpt2": _gpt2}
# every matrix of each, by pattern: C subcomponents
PATTERNS = {
    "gpt_neox": {"gpt_neox.layers.*.attention.*": 7, "gpt_neox.layers.*.mlp.*": 9},
    "llama": {"h.*.attn.*": 7, "h.*.mlp.*": 9},
    "gpt2": {"transformer.h.*.attn.*": 7, "*.mlp.*": 9},
}


def model(family: str, vocab: int = 320) -> Any:
    torch.manual_seed(3)
    made = MAKE[family](vocab).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.normal_(0.0, 0.4)
    return made


def target(family: str) -> Target:
    tokenizer = tiny.tokenizer()
    return Target(model(family, tokenizer.get_vocab_size()), tokenizer, family)


def decomposition(of: Target, seed: int = 1) -> Decomposition:
    """Random V and U, so that Delta is large."""
    sites = find_sites(of.model, PATTERNS[of.name])
    components = Subcomponents(sites).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in components.parameters():
        parameter.normal_(0.0, 0.3, generator=generator)
    reads = shared_inputs(of.model, sites, torch.arange(4)[None])
    return Decomposition(components, CIFunction(sites, reads, SIZE), window=16, hash="d" * 64)


def folder(family: str, path: Path) -> Path:
    """A transformers folder with tokenizer.json."""
    made = target(family)
    made.model.save_pretrained(path)
    made.tokenizer.save(str(path / "tokenizer.json"))
    return path
