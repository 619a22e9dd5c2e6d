"""A part of a sweep, for one of several machines or devices: `shard=i/N`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from pd_finetune.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Every `count`-th job of a sweep, from job `index` on."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `i/N`, as in 0/4.

        Raises:
            UserError: it is not of this form, or i is not one of 0 to N-1.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or int(found[1]) >= int(found[2]):
            raise UserError(
                f"shard={text}: give i/N with i from 0 to N-1, as in shard=0/4 for the first of 4"
            )
        return cls(int(found[1]), int(found[2]))

    def of(self, jobs: Sequence[T]) -> list[T]:
        """Its share of all jobs, in their order; the shards of one `count` share out the whole."""
        return list(jobs[self.index :: self.count])
