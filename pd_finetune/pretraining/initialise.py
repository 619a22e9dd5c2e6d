"""A target before any training."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from pd_finetune.pretraining.config import ArchitectureConfig
from pd_finetune.targets.arcee import arcee_config

if TYPE_CHECKING:
    from transformers import ArceeForCausalLM


def build(shape: ArchitectureConfig, seed: int) -> ArceeForCausalLM:
    """A freshly initialised target: normal 0.02, residual writers scaled by 1/sqrt(2 layers)."""
    from transformers import ArceeForCausalLM

    torch.manual_seed(seed)
    model = ArceeForCausalLM(arcee_config(**asdict(shape), kv_heads=shape.heads))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, 0.02)
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.div_((2 * shape.layers) ** 0.5)
    return model
