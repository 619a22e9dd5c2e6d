"""The shape of a LlamaSimpleMLP: its `model_config.yaml`, and which tensors it has."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pd_finetune.errors import UserError
from pd_finetune.goodfire.schema import Fields, Shape
from pd_finetune.targets.arcee import arcee_config

if TYPE_CHECKING:
    from transformers import ArceeConfig

MODEL_CONFIG, TRAINING_CONFIG = "model_config.yaml", "final_config.yaml"
# other values are other functions, which no published target has
_ONLY: dict[str, Any] = {
    "model_type": "LlamaSimpleMLP",
    "mlp_bias": False,
    "attn_bias": False,
    "rotary_adjacent_pairs": False,
    "use_grouped_query_attention": True,
}
# their code takes all of the head for rotary_dim; how attention is computed changes no result
_WITHOUT_EFFECT = {"rotary_dim", "flash_attention"}


@dataclass(frozen=True)
class Architecture:
    """What a `model_config.yaml` says, by its own names; defaults are Goodfire's, of old runs."""

    vocab_size: int = 50257
    n_layer: int = 12
    n_head: int = 12
    n_key_value_heads: int = 3
    n_embd: int = 768
    n_intermediate: int = 3072
    n_ctx: int = 1024
    block_size: int = 1024
    rms_norm_eps: float = 1e-6
    rotary_base: float = 10_000.0

    def shapes(self) -> dict[str, Shape]:
        """Shape of each tensor of the state dict."""
        keys = self.n_embd // self.n_head * self.n_key_value_heads
        return state_shapes(self.vocab_size, self.n_layer, self.n_embd, self.n_intermediate, keys)

    def arcee(self) -> ArceeConfig:
        """The transformers config of the same function."""
        return arcee_config(
            vocab_size=self.vocab_size,
            width=self.n_embd,
            layers=self.n_layer,
            heads=self.n_head,
            kv_heads=self.n_key_value_heads,
            mlp_width=self.n_intermediate,
            context=min(self.n_ctx, self.block_size),
            rms_norm_eps=self.rms_norm_eps,
            rotary_base=self.rotary_base,
        )


# of the targets whose decompositions Goodfire published: what these were made at
PUBLISHED = {"t-9d2b8f02": Architecture(50277, 4, 6, 6, 768, 3072, 512, 512)}


def read_architecture(folder: Path) -> Architecture:
    """The architecture that a run's folder states, as a whole and of one mind.

    Raises:
        UserError: a wrong type, an unknown key, a variant that is another function, or another
            value than in the training's config beside it.
    """
    stated = Fields.read(folder / MODEL_CONFIG)
    given = stated.values
    defaults = asdict(Architecture())
    if unknown := sorted(map(str, set(given) - {*defaults, *_ONLY, *_WITHOUT_EFFECT})):
        raise UserError(
            f"'{stated.path}' has unknown keys {', '.join(unknown)}: they may change the model"
        )
    for name, only in _ONLY.items():
        stated.only(name, only)
    values: dict[str, Any] = {
        name: (stated.whole if isinstance(default, int) else stated.number)(name, default)
        for name, default in defaults.items()
    }
    made = Architecture(**values)
    if made.n_embd % (2 * made.n_head):
        raise stated.refusal("n_head", f"does not divide n_embd {made.n_embd} into even halves")
    if made.n_head % made.n_key_value_heads:
        raise stated.refusal("n_key_value_heads", f"does not divide n_head {made.n_head}")
    if (folder / TRAINING_CONFIG).is_file():
        # the training repeats what it trained: weights alone would not tell heads, base, epsilon
        trained = Fields.read(folder / TRAINING_CONFIG).values.get("model")
        for name, value in trained.items() if isinstance(trained, dict) else ():
            if name in given and name not in _WITHOUT_EFFECT and given[name] != value:
                raise stated.refusal(name, f"must be {value}, as {TRAINING_CONFIG} beside it says")
    return made


def state_shapes(vocab: int, layers: int, width: int, inner: int, keys: int) -> dict[str, Shape]:
    """Shape of each tensor of a LlamaSimpleMLP's state dict; `keys`: rows of k_proj and v_proj."""
    shapes: dict[str, Shape] = {
        "wte.weight": (vocab, width),
        "ln_f.weight": (width,),
        "lm_head.weight": (vocab, width),
    }
    for i in range(layers):
        shapes |= {
            f"h.{i}.rms_1.weight": (width,),
            f"h.{i}.rms_2.weight": (width,),
            f"h.{i}.attn.q_proj.weight": (width, width),
            f"h.{i}.attn.k_proj.weight": (keys, width),
            f"h.{i}.attn.v_proj.weight": (keys, width),
            f"h.{i}.attn.o_proj.weight": (width, width),
            f"h.{i}.mlp.c_fc.weight": (inner, width),
            f"h.{i}.mlp.down_proj.weight": (width, inner),
        }
    return shapes
