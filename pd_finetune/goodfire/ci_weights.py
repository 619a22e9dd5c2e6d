"""Weights of Goodfire's global causal-importance transformer as those of our `CIFunction`.

Their own linear layers hold `.W` [in, out], torch's hold `.weight` [out, in].
"""

from __future__ import annotations

import re
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pd_finetune.decomposition.config import CIFunctionConfig
from pd_finetune.decomposition.sites import Site
from pd_finetune.errors import UserError

PREFIX = "ci_fn._global_ci_fn."
ROTARY_BASE = 10_000.0  # the only one that our CI function has


def ci_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a state dict that is the global CI function, without its prefix.

    Raises:
        UserError: there is none, or there are others (one per module).
    """
    found = {k.removeprefix(PREFIX): v for k, v in tensors.items() if k.startswith(PREFIX)}
    others = [k for k in tensors if k.startswith("ci_fn.") and not k.startswith(PREFIX)]
    if others or not found:
        what = f"{others[0]}, ..." if others else "none at all"
        raise UserError(
            "only decompositions with one global causal-importance transformer are read, "
            f"this one has {what}"
        )
    return found


def ci_size(found: dict[str, Tensor], config: dict[str, Any]) -> CIFunctionConfig:
    """Width and depth, from shapes; heads from the rotary table, compared with the config's.

    Raises:
        UserError: another rotary base, MLPs of more than one hidden layer, or missing tensors.
    """
    try:
        width = found["_input_projector.W"].shape[1]
        mlp_width = found["_blocks.0.mlp.0.W"].shape[1]
        rates = found["_blocks.0.attn.rope.inv_freq"].double()
    except KeyError as error:
        raise UserError(f"the checkpoint's CI function lacks {error.args[0]}") from None
    half = len(rates)
    expected = ROTARY_BASE ** (-torch.arange(half, dtype=torch.float64) / half)
    if not torch.allclose(rates, expected, rtol=1e-4, atol=0):
        raise UserError(f"the CI function's rotary base is not {ROTARY_BASE:g}: it cannot be read")
    heads = width // (2 * half)
    said = (config.get("attn_config") or {}).get("n_heads", heads)
    if said != heads or heads * 2 * half != width:
        raise UserError(f"n_heads {said} in the config, but the rotary table fits {heads}")
    blocks = {int(m[1]) for name in found if (m := re.match(r"_blocks\.(\d+)\.", name))}
    if blocks != set(range(len(blocks))):
        raise UserError(f"the CI function's blocks are {sorted(blocks)}: some are missing")
    return CIFunctionConfig(width=width, blocks=len(blocks), heads=heads, mlp_width=mlp_width)


def our_ci_weights(
    found: dict[str, Tensor], sites: dict[str, Site], reads: dict[str, str], size: CIFunctionConfig
) -> dict[str, Tensor]:
    """A state dict for `CIFunction(sites, reads, size)`.

    Raises:
        UserError: a tensor is missing, or there is one too many.
    """
    left = dict(found)

    def take(name: str) -> Tensor:
        if name not in left:
            raise UserError(f"the checkpoint's CI function lacks {name}")
        return left.pop(name).float()

    result = {
        "input_projector.weight": _folded(take("_input_projector.W"), sites, reads),
        "input_projector.bias": take("_input_projector.b"),
        "output_head.weight": take("_output_head.W").T,
        "output_head.bias": take("_output_head.b"),
    }
    for i in range(size.blocks):
        take(f"_blocks.{i}.attn.rope.inv_freq")
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            result[f"blocks.{i}.attn.{part}.weight"] = take(f"_blocks.{i}.attn.{part}.weight")
        for part in ("0", "2"):
            result[f"blocks.{i}.mlp.{part}.weight"] = take(f"_blocks.{i}.mlp.{part}.W").T
            result[f"blocks.{i}.mlp.{part}.bias"] = take(f"_blocks.{i}.mlp.{part}.b")
    if left:
        raise UserError(f"the checkpoint's CI function has unknown tensors: {', '.join(left)}")
    return result


def _folded(
    W: Float[Tensor, "inputs width"], sites: dict[str, Site], reads: dict[str, str]
) -> Float[Tensor, "width distinct_inputs"]:
    """The input projection over distinct inputs.

    Theirs reads q, k and v's common input three times; x W_q + x W_k + x W_v = x (W_q + W_k + W_v).
    """
    names = sorted(sites)
    if W.shape[0] != sum(sites[name].d_in for name in names):
        raise UserError(
            f"the CI function reads {W.shape[0]} numbers a position, "
            f"its sites have {sum(sites[name].d_in for name in names)}"
        )
    parts = dict(zip(names, W.split([sites[name].d_in for name in names]), strict=True))
    sums: dict[str, Tensor] = {}
    for name in names:
        first = reads[name]
        sums[first] = parts[name].double() if first not in sums else sums[first] + parts[name]
    return torch.cat([sums[name] for name in sorted(sums)]).float().T
