"""Random numbers of a training step, drawn by row of the global batch.

A row's numbers depend on seed, step and row alone: a resumed training repeats them without any
saved state, and processes that share a batch draw what one process would have drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

_SOURCES, _ROUTES = 0, 1


def row_generator(device: torch.device, *entropy: int) -> torch.Generator:
    """A generator seeded by all of `entropy`, made where its numbers are used."""
    seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(seed)


@dataclass(frozen=True)
class RowNoise:
    """The noise of one step for some rows of the global batch.

    Args:
        rows: their numbers in the global batch, in the order of this process's batch.
    """

    seed: int
    step: int
    rows: Sequence[int]
    device: torch.device

    def sources(self, part: slice, positions: int, width: int) -> Float[Tensor, "rows pos width"]:
        """Uniform in [0, 1), for the rows of `part`."""
        r = torch.empty(len(self.rows[part]), positions, width, device=self.device)
        for row, number in zip(r, self.rows[part], strict=True):
            generator = row_generator(self.device, self.seed, self.step, number, _SOURCES)
            row.uniform_(generator=generator)
        return r

    def routes(self, part: slice, positions: int, sites: int) -> Bool[Tensor, "rows pos sites"]:
        """Routes of the rows of `part`, see `random_routes`."""
        return torch.stack(
            [
                random_routes(
                    positions,
                    sites,
                    row_generator(self.device, self.seed, self.step, number, _ROUTES),
                )
                for number in self.rows[part]
            ]
        )


def random_routes(
    positions: int, sites: int, generator: torch.Generator
) -> Bool[Tensor, "pos sites"]:
    """Per position a random k of the sites, k uniform in 1..sites (uniform-k-subset routing)."""
    device = generator.device
    scores = torch.rand(positions, sites, generator=generator, device=device)
    rank = scores.argsort(-1).argsort(-1)
    k = torch.randint(1, sites + 1, (positions, 1), generator=generator, device=device)
    return rank < k
