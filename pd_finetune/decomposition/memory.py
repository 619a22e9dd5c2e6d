"""How much memory a decomposition's training will take, from shapes alone.

A plan, not an allocator: parts that dominate are counted, the rest (libraries, fragmentation, the
target's own small activations) is not. `benchmarks/memory.py` compares it with measured peaks.
"""

from __future__ import annotations

from collections.abc import Mapping

from pd_finetune.decomposition.config import CIFunctionConfig, DecomposeConfig
from pd_finetune.decomposition.sites import Site

_FLOAT = 4  # bytes; trained parameters and everything elementwise are float32
# Tensors [tokens, C] alive at the peak of a step. Kept by a step: pre-sigmoid importances, g,
# r, masks, and their gradients; by each masked forward: x V, its scales and the products of its
# backward. On a CPU, eager, peaks from 760 to 2,550 MiB were 1.0 to 1.3 times the estimate, that of
# 530 MiB 1.5 times (benchmarks/memory.py).
_OF_STEP = 14
_OF_FORWARD = 2
_FORWARDS = {"merged": 1, "separate": 2}  # whose activations are there at the same time


def ci_function_parameters(
    sites: Mapping[str, Site], read_width: int, size: CIFunctionConfig
) -> int:
    """Parameters of the causal-importance function that reads `read_width` numbers a token."""
    C = sum(site.C for site in sites.values())
    attention = 4 * size.width**2 if size.kind == "transformer" else 0
    block = attention + 2 * size.width * size.mlp_width + size.mlp_width + size.width
    return (read_width + 1) * size.width + size.blocks * block + (size.width + 1) * C


def memory_bytes(
    sites: Mapping[str, Site],
    read_width: int,
    target_bytes: int,
    config: DecomposeConfig,
    processes: int = 1,
    blocks: int = 1,
) -> dict[str, int]:
    """Bytes per process, by part.

    Args:
        read_width: summed width of the distinct inputs of the sites.
        target_bytes: of the target's weights, as loaded.
        processes: data-parallel workers that share `recipe.rows`.
        blocks: of the target, one of which at a time holds activations; 1 without checkpointing.
    """
    size, recipe = config.ci_function, config.recipe
    C = sum(site.C for site in sites.values())
    VU = sum(site.C * (site.d_in + site.d_out) for site in sites.values())
    trained = VU + ci_function_parameters(sites, read_width, size)
    rows = -(-recipe.rows // processes)
    tokens = (config.micro_batch or rows) * recipe.window
    hostile = 0 if not recipe.adversary else rows if recipe.recon == "separate" else rows // 2
    positions = recipe.window if recipe.adversary_scope == "position" else 1
    site_ends = sum(2 * site.d_in + 3 * site.d_out for site in sites.values())
    forward = _FORWARDS[recipe.recon] * (_OF_FORWARD * C + site_ends) // blocks
    block = 10 * size.width + 3 * size.mlp_width
    trunk = (size.blocks if blocks == 1 else 1) * block + 2 * read_width
    return {
        "target": target_bytes,
        "V, U and causal-importance function": trained * _FLOAT,
        "gradients and Adam": 3 * trained * _FLOAT,
        # values, two moments, the gradient, a climb's scratch
        "adversary's sources": 5 * hostile * positions * (C + len(sites)) * _FLOAT,
        "activations": tokens * (_OF_STEP * C + forward + trunk) * _FLOAT,
    }


def memory_line(parts: Mapping[str, int]) -> str:
    """One line for people: the sum, then the parts, largest first."""
    total = sum(parts.values())
    shown = ", ".join(
        f"{name} {value / 2**30:.2f}"
        for name, value in sorted(parts.items(), key=lambda item: -item[1])
    )
    return f"memory: about {total / 2**30:.2f} GiB a process beside the libraries ({shown})"
