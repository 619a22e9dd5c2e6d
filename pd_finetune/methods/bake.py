"""Turning an edit into weights: the model that anyone can load."""

from __future__ import annotations

import copy
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
