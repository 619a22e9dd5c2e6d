"""The embedded target's architecture: a LlamaSimpleMLP, which is an Arcee model in transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_finetune.pretraining.config import ArchitectureConfig

if TYPE_CHECKING:
    from transformers import ArceeConfig, ArceeForCausalLM


def architecture(shape: ArchitectureConfig) -> ArceeConfig:
    """The transformers config: no biases, tied embeddings, tanh GELU, full multi-head attention."""
    from transformers import ArceeConfig

    return ArceeConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        hidden_act="gelu_new",
        max_position_embeddings=shape.context,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        attention_bias=False,
        mlp_bias=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )


def build(shape: ArchitectureConfig, seed: int) -> ArceeForCausalLM:
    """A freshly initialised target: normal 0.02, residual writers scaled by 1/sqrt(2 layers)."""
    import torch
    from transformers import ArceeForCausalLM

    torch.manual_seed(seed)
    model = ArceeForCausalLM(architecture(shape))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, 0.02)
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.div_((2 * shape.layers) ** 0.5)
    return model
