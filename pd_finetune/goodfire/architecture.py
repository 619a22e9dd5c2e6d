"""The shape of a LlamaSimpleMLP: its `model_config.yaml`, the same as a transformers config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pd_finetune.errors import UserError
from pd_finetune.goodfire.checkpoint import read_yaml

if TYPE_CHECKING:
    from transformers import ArceeConfig

# Goodfire's defaults for keys that an old run's file lacks
DEFAULTS: dict[str, Any] = {
    "model_type": "LlamaSimpleMLP",
    "block_size": 1024,
    "vocab_size": 50257,
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "n_intermediate": 3072,
    "mlp_bias": False,
    "attn_bias": False,
    "rotary_adjacent_pairs": False,
    "rotary_dim": 64,  # not read by their code: all of the head turns
    "rotary_base": 10000,
    "n_ctx": 1024,
    "n_key_value_heads": 3,
    "use_grouped_query_attention": True,
    "flash_attention": True,
    "rms_norm_eps": 1e-6,
}
# other values are other functions, which no published target has
_ONLY = {
    "model_type": "LlamaSimpleMLP",
    "mlp_bias": False,
    "attn_bias": False,
    "rotary_adjacent_pairs": False,
    "use_grouped_query_attention": True,
}


def model_values(path: Path) -> dict[str, Any]:
    """The values of a `model_config.yaml`, defaults filled in.

    Raises:
        UserError: an unknown key, or a variant that is another function.
    """
    given = read_yaml(path)
    unknown = sorted(map(str, set(given) - set(DEFAULTS)))
    if unknown:
        raise UserError(
            f"'{path}' has unknown keys {', '.join(unknown)}: they may change the model"
        )
    values = {**DEFAULTS, **given}
    for name, only in _ONLY.items():
        if values[name] != only:
            raise UserError(f"'{path}': {name} {values[name]} cannot be read, only {only}")
    for name in (
        "vocab_size",
        "n_layer",
        "n_head",
        "n_key_value_heads",
        "n_embd",
        "n_intermediate",
    ):
        if not isinstance(values[name], int) or values[name] < 1:
            raise UserError(f"'{path}': {name} {values[name]} must be a whole number above 0")
    width, heads, kv_heads = values["n_embd"], values["n_head"], values["n_key_value_heads"]
    if width % (2 * heads) or heads % kv_heads:
        raise UserError(
            f"'{path}': n_embd {width}, n_head {heads} and n_key_value_heads {kv_heads} "
            "do not divide one another"
        )
    return values


def expected_shapes(values: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of each parameter, by transformers' name, the tied output embedding left out."""
    width, inner = values["n_embd"], values["n_intermediate"]
    keys = width // values["n_head"] * values["n_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (values["vocab_size"], width),
        "model.norm.weight": (width,),
    }
    for i in range(values["n_layer"]):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (width,),
            f"{layer}.post_attention_layernorm.weight": (width,),
            f"{layer}.self_attn.q_proj.weight": (width, width),
            f"{layer}.self_attn.k_proj.weight": (keys, width),
            f"{layer}.self_attn.v_proj.weight": (keys, width),
            f"{layer}.self_attn.o_proj.weight": (width, width),
            f"{layer}.mlp.up_proj.weight": (inner, width),
            f"{layer}.mlp.down_proj.weight": (width, inner),
        }
    return shapes


def arcee_config(values: dict[str, Any]) -> ArceeConfig:
    """The transformers config of a LlamaSimpleMLP."""
    from transformers import ArceeConfig

    return ArceeConfig(
        architectures=["ArceeForCausalLM"],
        vocab_size=values["vocab_size"],
        hidden_size=values["n_embd"],
        intermediate_size=values["n_intermediate"],
        num_hidden_layers=values["n_layer"],
        num_attention_heads=values["n_head"],
        num_key_value_heads=values["n_key_value_heads"],
        hidden_act="gelu_new",
        max_position_embeddings=min(values["n_ctx"], values["block_size"]),
        rms_norm_eps=float(values["rms_norm_eps"]),
        tie_word_embeddings=True,
        attention_bias=False,
        mlp_bias=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": float(values["rotary_base"])},
        dtype="float32",
    )
