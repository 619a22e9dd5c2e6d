"""Random numbers of a training step, drawn by row of the global batch.

A row's numbers depend on seed, step and row alone: a resumed training repeats them without any
saved state, and processes that share a batch draw what one process would have drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

_SOURCES, _ROUTES = 0, 1


def row_generator(device: torch.device, *entropy: int) -> torch.Generator:
    """A generator seeded by all of `entropy`, made where its numbers are used."""
    seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(seed)


def fractions(noise: UInt8[Tensor, "*any"], dtype: torch.dtype) -> Float[Tensor, "*any"]:
    """Bytes as multiples of 1/256 in [0, 1), which bfloat16 holds exactly."""
    return noise.to(dtype) * (1 / 256)


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

    def sources(self, part: slice, positions: int, width: int) -> UInt8[Tensor, "rows pos width"]:
        """Uniform bytes, for the rows of `part`; see `fractions`.

        A byte is as fine as products in bfloat16 are, and eight of them come from one draw.
        """
        words = -(-positions * width // 8)
        drawn = torch.empty(len(self.rows[part]), words, dtype=torch.int64, device=self.device)
        for row, number in zip(drawn, self.rows[part], strict=True):
            generator = row_generator(self.device, self.seed, self.step, number, _SOURCES)
            row.random_(-(2**63), None, generator=generator)
        return drawn.view(torch.uint8)[:, : positions * width].view(-1, positions, width)

    def routes(self, part: slice, positions: int, sites: int) -> Bool[Tensor, "rows pos sites"]:
        """Per position a random k of the sites, k uniform in 1..sites, for the rows of `part`."""
        scores, k = [], []
        for number in self.rows[part]:
            drawn = row_generator(self.device, self.seed, self.step, number, _ROUTES)
            scores.append(torch.rand(positions, sites, generator=drawn, device=self.device))
            size = (positions, 1)
            k.append(torch.randint(1, sites + 1, size, generator=drawn, device=self.device))
        return torch.stack(scores).argsort(-1).argsort(-1) < torch.stack(k)
