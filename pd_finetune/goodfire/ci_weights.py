"""Goodfire's global causal-importance transformer, and its weights as those of our `CIFunction`.

Their own linear layers hold `.W` [in, out], torch's hold `.weight` [out, in].
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from pd_finetune.decomposition.config import CIFunctionConfig
from pd_finetune.decomposition.sites import Site
from pd_finetune.errors import UserError
from pd_finetune.goodfire.schema import Fields, Shape, sizes

PREFIX = "ci_fn._global_ci_fn."
ROTARY_BASE = 10_000.0  # the only one that our CI function has
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


def ci_size(tensors: Mapping[str, Tensor], config: Fields) -> CIFunctionConfig:
    """Width and depth as the run's `simple_transformer_ci_cfg` says, where silent by the tensors.

    Raises:
        UserError: there is no global CI function, or one that is not read here.
    """
    others = [name for name in tensors if name.startswith("ci_fn.")]
    others = [name for name in others if not name.startswith(PREFIX)]
    if others or not any(name.startswith(PREFIX) for name in tensors):
        raise UserError(
            "only decompositions with one global causal-importance transformer are read, "
            f"this one has {others[0] + ', ...' if others else 'none at all'}"
        )
    attention = config.block("attn_config")
    if attention.number("rope_base", ROTARY_BASE) != ROTARY_BASE:
        raise attention.refusal("rope_base", f"cannot be read, only {ROTARY_BASE:g}")
    hidden = config.values.get("mlp_hidden_dim")
    if hidden is not None and (not isinstance(hidden, list) or len(hidden) != 1):
        raise config.refusal("mlp_hidden_dim", "must be a list of one whole number")
    mlp = Fields({"mlp_hidden_dim": hidden[0]} if hidden else {}, config.path, config.within)
    blocks = {m[1] for name in tensors if (m := re.match(rf"{PREFIX}_blocks\.(\d+)\.", name))}
    (half,) = sizes(tensors, f"{PREFIX}_blocks.0.attn.rope.inv_freq", 1)
    width = config.whole("d_model", sizes(tensors, f"{PREFIX}_input_projector.W")[1])
    heads = attention.whole("n_heads", max(1, width // (2 * half)))
    if width != heads * 2 * half:
        raise UserError(
            f"attn_config.n_heads {heads} of '{config.path}' does not fit the rotary table: "
            f"{half} frequencies, {width} numbers"
        )
    return CIFunctionConfig(
        width=width,
        blocks=config.whole("n_blocks", len(blocks)),
        heads=heads,
        mlp_width=mlp.whole("mlp_hidden_dim", sizes(tensors, f"{PREFIX}_blocks.0.mlp.0.W")[1]),
    )


def ci_shapes(sites: dict[str, Site], size: CIFunctionConfig) -> dict[str, Shape]:
    """Shape of each tensor of the CI function, by its name in the state dict."""
    width, inner = size.width, size.mlp_width
    total = sum(site.C for site in sites.values())
    shapes: dict[str, Shape] = {
        "_input_projector.W": (sum(site.d_in for site in sites.values()), width),
        "_input_projector.b": (width,),
        "_output_head.W": (width, total),
        "_output_head.b": (total,),
    }
    for i in range(size.blocks):
        shapes |= {f"_blocks.{i}.attn.{part}.weight": (width, width) for part in _PROJECTIONS}
        shapes |= {
            f"_blocks.{i}.attn.rope.inv_freq": (width // size.heads // 2,),
            f"_blocks.{i}.mlp.0.W": (width, inner),
            f"_blocks.{i}.mlp.0.b": (inner,),
            f"_blocks.{i}.mlp.2.W": (inner, width),
            f"_blocks.{i}.mlp.2.b": (width,),
        }
    return {f"{PREFIX}{name}": shape for name, shape in shapes.items()}


def our_ci_weights(
    tensors: Mapping[str, Tensor],
    sites: dict[str, Site],
    reads: dict[str, str],
    size: CIFunctionConfig,
) -> dict[str, Tensor]:
    """A state dict for `CIFunction(sites, reads, size)`, of tensors that have `ci_shapes`.

    Raises:
        UserError: a block turns by another rotary base.
    """

    def take(name: str) -> Tensor:
        return tensors[f"{PREFIX}{name}"].float()

    result = {
        "input_projector.weight": _folded(take("_input_projector.W"), sites, reads),
        "input_projector.bias": take("_input_projector.b"),
        "output_head.weight": take("_output_head.W").T,
        "output_head.bias": take("_output_head.b"),
    }
    for i in range(size.blocks):
        rates = take(f"_blocks.{i}.attn.rope.inv_freq").double()
        expected = ROTARY_BASE ** (-torch.arange(len(rates), dtype=torch.float64) / len(rates))
        if not torch.allclose(rates, expected, rtol=1e-4, atol=0):
            name = f"{PREFIX}_blocks.{i}.attn.rope.inv_freq"
            raise UserError(f"{name} is not of the rotary base {ROTARY_BASE:g}")
        for part in _PROJECTIONS:
            result[f"blocks.{i}.attn.{part}.weight"] = take(f"_blocks.{i}.attn.{part}.weight")
        for part in ("0", "2"):
            result[f"blocks.{i}.mlp.{part}.weight"] = take(f"_blocks.{i}.mlp.{part}.W").T
            result[f"blocks.{i}.mlp.{part}.bias"] = take(f"_blocks.{i}.mlp.{part}.b")
    return result


def _folded(
    W: Float[Tensor, "inputs width"], sites: dict[str, Site], reads: dict[str, str]
) -> Float[Tensor, "width distinct_inputs"]:
    """The input projection over distinct inputs.

    Theirs reads q, k and v's common input three times; x W_q + x W_k + x W_v = x (W_q + W_k + W_v).
    """
    names = sorted(sites)
    sums: dict[str, Tensor] = {}
    for name, part in zip(names, W.split([sites[name].d_in for name in names]), strict=True):
        first = reads[name]
        sums[first] = part.double() if first not in sums else sums[first] + part
    return torch.cat([sums[name] for name in sorted(sums)]).float().T
