"""Activation checkpointing of masked forwards: a block's activations are computed again in the
backward, when they are needed, and only its input is kept until then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pd_finetune.decomposition.components import SiteMask, Subcomponents


def blocks_of(model: nn.Module, components: Subcomponents) -> list[nn.Module]:
    """The outermost members of module lists that hold sites."""
    lists = [path for path, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    outer = [p for p in lists if not any(p.startswith(f"{other}.") for other in lists)]
    modules = [site.module for site in components.sites.values()]
    return [
        block
        for path in outer
        for name, block in model.get_submodule(path).named_children()
        if any(module.startswith(f"{path}.{name}.") for module in modules)
    ]


@contextmanager
def recomputed(
    components: Subcomponents, model: nn.Module, masks: dict[str, SiteMask]
) -> Iterator[None]:
    """Within the context, masked forwards keep no activations of the model's blocks.

    Sites outside of blocks keep theirs.

    Args:
        masks: those of the present forward, as `components.masked` reads them.
    """
    blocks = blocks_of(model, components)
    for block in blocks:
        # an attribute of the instance hides the class's method until it is deleted
        vars(block)["forward"] = _recomputing(block.forward, masks)
    try:
        yield
    finally:
        for block in blocks:
            del vars(block)["forward"]


def _recomputing(forward: Any, masks: dict[str, SiteMask]) -> Any:
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if not masks:
            return forward(*args, **kwargs)
        if torch.compiler.is_compiling():  # masks are tensors of the graph, there at any time
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)
        mine = dict(masks)

        def run(*args: Any, **kwargs: Any) -> Any:
            # the second run comes when another forward's masks are there, or none
            others = dict(masks)
            masks.update(mine)
            try:
                return forward(*args, **kwargs)
            finally:
                masks.clear()
                masks.update(others)

        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return checkpointed
