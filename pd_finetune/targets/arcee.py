"""LlamaSimpleMLP targets, as the embedded one and Goodfire's are: Arcee models in transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import ArceeConfig


def arcee_config(
    *,
    vocab_size: int,
    width: int,
    layers: int,
    heads: int,
    kv_heads: int,
    mlp_width: int,
    context: int,
    rms_norm_eps: float = 1e-6,
    rotary_base: float = 10_000.0,
) -> ArceeConfig:
    """The transformers config: no biases, tied embeddings, ungated MLP with tanh GELU."""
    from transformers import ArceeConfig

    return ArceeConfig(
        architectures=["ArceeForCausalLM"],
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=mlp_width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        hidden_act="gelu_new",
        max_position_embeddings=context,
        rms_norm_eps=rms_norm_eps,
        tie_word_embeddings=True,
        attention_bias=False,
        mlp_bias=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": rotary_base},
        dtype="float32",
    )
