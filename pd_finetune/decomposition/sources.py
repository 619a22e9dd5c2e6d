"""The adversary: mask sources that persist between steps and climb the reconstruction loss."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PersistentSources(nn.Module):
    """Sources in [0, 1] that climb the reconstruction loss by Adam and are kept between steps.

    Shape [rows, C + sites] ("row": shared over positions) or [rows, positions, C + sites]; the last
    entries are the raw masks of Delta, one per site.
    """

    def __init__(
        self, start: Float[Tensor, "rows *rest"], lr: float, betas: tuple[float, float]
    ) -> None:
        super().__init__()
        self.lr, self.betas = lr, betas
        self.values: Tensor
        self.first: Tensor
        self.second: Tensor
        self.climbs: Tensor
        self.register_buffer("values", start)
        self.register_buffer("first", torch.zeros_like(start))
        self.register_buffer("second", torch.zeros_like(start))
        self.register_buffer("climbs", torch.zeros((), dtype=torch.int64))

    def leaf(self) -> Float[Tensor, "rows *rest"]:
        """The present sources as a leaf that collects a gradient."""
        return self.values.detach().requires_grad_(True)

    def part(self, rows: slice) -> PersistentSources:
        """Some rows' sources: they share memory with these, and count their climbs for themselves.

        Rows climb independently, so that a batch may be climbed a part at a time.
        """
        part = PersistentSources(self.values[rows], self.lr, self.betas)
        part.first, part.second = self.first[rows], self.second[rows]
        part.climbs = self.climbs.clone()
        return part

    @torch.no_grad()
    def climb(self, gradient: Float[Tensor, "rows *rest"], warmth: float = 1.0) -> None:
        """One Adam step of `warmth` times lr up the loss, then clamp to [0, 1]."""
        b1, b2 = self.betas
        self.climbs += 1
        count = int(self.climbs)
        self.first.lerp_(gradient, 1 - b1)
        self.second.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        scale = (self.second / (1 - b2**count)).sqrt_().add_(1e-12)
        self.values.addcdiv_(self.first, scale, value=warmth * self.lr / (1 - b1**count))
        self.values.clamp_(0.0, 1.0)
