"""Terms of the decomposition loss: importance minimality, frequency, faithfulness."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.sites import weight_at


def p_norm_minimality(means: Float[Tensor, " C"], tokens: int, beta: float) -> Float[Tensor, ""]:
    """Sum over subcomponents of `mean (1 + beta log2(1 + sum over tokens))` (VPD paper)."""
    return (means * (1 + beta * torch.log2(1 + means * tokens))).sum()


class FrequencyPenalty(nn.Module):
    """`f log2(1 + a f)` summed over subcomponents, f a debiased running mean of smooth-L0.

    The gradient flows through the present batch alone, with the penalty's slope taken at the
    running mean: a batch of a thousand tokens is too small to tell a frequency of 1e-4.
    """

    def __init__(self, C: int, scale: float, half_life_steps: float) -> None:
        super().__init__()
        self.scale, self.decay = scale, 0.5 ** (1 / half_life_steps)
        self.mean: Tensor
        self.weight: Tensor
        self.register_buffer("mean", torch.zeros(C))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, means: Float[Tensor, " C"], observe: bool = True) -> Float[Tensor, ""]:
        """The penalty; with `observe` the batch's means enter the running ones (once a step)."""
        with torch.no_grad():
            if observe:
                self.mean.lerp_(means.detach().float(), 1 - self.decay)
                self.weight.lerp_(torch.ones_like(self.weight), 1 - self.decay)
            f = self.mean / self.weight
            inner = 1 + self.scale * f
            slope = torch.log2(inner) + self.scale * f / (inner * math.log(2))
            value = (f * torch.log2(inner)).sum()
        surrogate = (means * slope).sum()
        return value + surrogate - surrogate.detach()


def faithfulness(
    components: Subcomponents, model: nn.Module, kind: str = "relative"
) -> Float[Tensor, ""]:
    """How far V U is from W: mean over sites of ||Delta||^2/||W||^2, or the sum over all entries.

    Args:
        kind: "relative" (current recipe), or "entries": all ||Delta||^2 / all entries (paper).
    """
    squares, sizes, norms = [], [], []
    for name, site in components.sites.items():
        weight = weight_at(model, site)
        squares.append(components.delta(model, name).float().square().sum())
        sizes.append(weight.numel())
        norms.append(weight.float().square().sum())
    if kind == "entries":
        return torch.stack(squares).sum() / sum(sizes)
    return (torch.stack(squares) / torch.stack(norms)).mean()
