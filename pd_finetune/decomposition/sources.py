"""Mask sources: random for stochastic reconstruction, persistent and climbing for the adversary."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class PersistentSources(nn.Module):
    """Sources in [0, 1] that climb the reconstruction loss by Adam and are kept between steps.

    Shape [rows, C + sites] ("row": shared over positions) or [rows, positions, C + sites]; the last
    entries are the raw masks of Delta, one per site.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        lr: float,
        betas: tuple[float, float],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.lr, self.betas = lr, betas
        self.values: Tensor
        self.first: Tensor
        self.second: Tensor
        self.climbs: Tensor
        self.register_buffer("values", torch.rand(shape, generator=generator))
        self.register_buffer("first", torch.zeros(shape))
        self.register_buffer("second", torch.zeros(shape))
        self.register_buffer("climbs", torch.zeros((), dtype=torch.int64))

    def leaf(self) -> Float[Tensor, "rows *rest"]:
        """The present sources as a leaf that collects a gradient."""
        return self.values.detach().requires_grad_(True)

    @torch.no_grad()
    def climb(self, gradient: Float[Tensor, "rows *rest"]) -> None:
        """One Adam step up the loss, then clamp to [0, 1]."""
        b1, b2 = self.betas
        self.climbs += 1
        count = int(self.climbs)
        self.first.lerp_(gradient, 1 - b1)
        self.second.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        scale = (self.second / (1 - b2**count)).sqrt_().add_(1e-12)
        self.values.addcdiv_(self.first, scale, value=self.lr / (1 - b1**count)).clamp_(0.0, 1.0)


def random_routes(
    rows: int, positions: int, sites: int, generator: torch.Generator
) -> Bool[Tensor, "rows pos sites"]:
    """Per position a random k of the sites, k uniform in 1..sites (uniform-k-subset routing)."""
    scores = torch.rand(rows, positions, sites, generator=generator)
    rank = scores.argsort(-1).argsort(-1)
    k = torch.randint(1, sites + 1, (rows, positions, 1), generator=generator)
    return rank < k
