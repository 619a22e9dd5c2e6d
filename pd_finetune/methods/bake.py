"""Turning an edit into weights: for good, in a model that anyone can load, or for a while."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from pd_finetune.decomposition.sites import stored_as
from pd_finetune.methods.protocol import Method
from pd_finetune.targets.load import Target

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def bake(target: Target, method: Method) -> PreTrainedModel:
    """A float32 copy of the target's model with the edit in its weights; the target stays as it is.

    Tied embeddings stay tied. Float32 whatever the target's own type, because rounding an edited
    weight to bfloat16 can drop a small edit altogether.
    """
    model = copy.deepcopy(target.model).float()
    for path, weight in method.edited_weights().items():
        module: Any = model.get_submodule(path)
        stored = stored_as(module, weight)
        assert module.weight.shape == stored.shape
        module.weight.copy_(stored)
    return model


@contextmanager
def baked(target: Target, method: Method) -> Iterator[None]:
    """Within the context the target's own weights are the edited ones, for forwards alone.

    The edit then costs a forward nothing. Not for training: no gradient reaches the method. A
    target that is not float32 runs as in `edited()`, for rounding could drop a small edit.
    """
    if target.model.dtype != torch.float32:
        with method.edited():
            yield
        return
    plain: list[tuple[Any, torch.Tensor]] = []
    try:
        for path, weight in method.edited_weights().items():
            module: Any = target.model.get_submodule(path)
            plain.append((module, module.weight.data))
            module.weight.data = stored_as(module, weight).contiguous()
        yield
    finally:
        for module, weight in plain:
            module.weight.data = weight
