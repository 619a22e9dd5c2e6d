"""Activation checkpointing of masked forwards: a block's activations are computed again in the
backward, when they are needed, and only its input is kept until then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from pd_finetune.decomposition.components import SiteMask, Subcomponents
from pd_finetune.decomposition.masked_site import SourcedMask


def blocks_of(model: nn.Module, components: Subcomponents) -> dict[nn.Module, list[str]]:
    """The outermost members of module lists that hold sites, with the sites that they hold."""
    lists = [path for path, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    found: dict[nn.Module, list[str]] = {}
    for name, site in components.sites.items():
        inside = [path for path in lists if site.module.startswith(f"{path}.")]
        if not inside:
            continue
        outermost = min(inside, key=len)
        index, _, rest = site.module.removeprefix(f"{outermost}.").partition(".")
        if rest:  # a list of the matrices themselves has no blocks
            found.setdefault(model.get_submodule(f"{outermost}.{index}"), []).append(name)
    return found


@contextmanager
def masked_recomputed(
    components: Subcomponents, model: nn.Module, masks: Mapping[str, SiteMask | SourcedMask]
) -> Iterator[None]:
    """`components.masked`, where backward computes what is within the model's blocks once more.

    Sites outside of blocks keep their activations.
    """
    changed = []
    outside = dict(masks)
    try:
        for block, names in blocks_of(model, components).items():
            inside = {name: outside.pop(name) for name in names if name in masks}
            if inside:
                # an attribute of the instance hides the class's method until it is deleted
                vars(block)["forward"] = _recomputing(block.forward, components, model, inside)
                changed.append(block)
        with components.masked(model, outside):
            yield
    finally:
        for block in changed:
            del vars(block)["forward"]


def _recomputing(
    forward: Any,
    components: Subcomponents,
    model: nn.Module,
    masks: Mapping[str, SiteMask | SourcedMask],
) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        # hooks are set in here, as the second run comes when the caller's context is gone
        with components.masked(model, masks):
            return forward(*args, **kwargs)

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return checkpointed
