"""LlamaSimpleMLP targets, as the embedded one and Goodfire's are: Arcee models in transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_finetune.pretraining.config import ArchitectureConfig

if TYPE_CHECKING:
    from transformers import ArceeConfig, ArceeForCausalLM


def arcee_config(
    shape: ArchitectureConfig,
    kv_heads: int | None = None,
    rms_norm_eps: float = 1e-6,
    rotary_base: float = 10_000.0,
) -> ArceeConfig:
    """The transformers config: no biases, tied embeddings, ungated MLP with tanh GELU.

    Args:
        kv_heads: heads of keys and values; None: as many as there are of queries.
    """
    from transformers import ArceeConfig

    return ArceeConfig(
        architectures=["ArceeForCausalLM"],
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=kv_heads or shape.heads,
        hidden_act="gelu_new",
        max_position_embeddings=shape.context,
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


def build(shape: ArchitectureConfig, seed: int) -> ArceeForCausalLM:
    """A freshly initialised target: normal 0.02, residual writers scaled by 1/sqrt(2 layers)."""
    import torch
    from transformers import ArceeForCausalLM

    torch.manual_seed(seed)
    model = ArceeForCausalLM(arcee_config(shape))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, 0.02)
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.div_((2 * shape.layers) ** 0.5)
    return model
