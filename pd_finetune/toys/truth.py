"""Comparing a decomposition with the right one, which is known of a toy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pd_finetune.decomposition.evidence.counts import ALIVE_MEAN_CI, CLEARLY_IMPORTANT_CI

REPRESENTED = 0.1  # of the longest column; a shorter one is a feature that the toy left out


@dataclass(frozen=True)
class SiteTruth:
    """The right decomposition of one site.

    Args:
        alive: how many subcomponents there should be.
        important: how many should be important while one feature is active; None: not determined.
        reads: what subcomponent i reads; None: the directions are not determined.
        writes: what it writes: its matrix is outer(writes[i], reads[i]).
        embed: what a feature puts into the site's input, where `reads` is in features rather than
            in that input.
        represented: the features that the toy has learnt; the others have no subcomponent.
    """

    alive: int
    important: float | None
    reads: Float[Tensor, "features any"] | None = None
    writes: Float[Tensor, "features d_out"] | None = None
    embed: Float[Tensor, "features d_in"] | None = None
    represented: Bool[Tensor, " features"] | None = None

    @classmethod
    def columns(
        cls,
        reads: Float[Tensor, "features any"],
        writes: Float[Tensor, "features d_out"],
        embed: Float[Tensor, "features d_in"] | None = None,
    ) -> SiteTruth:
        """One subcomponent per represented feature."""
        norms = reads.norm(dim=-1) * writes.norm(dim=-1)
        represented = norms > REPRESENTED * norms.max()
        return cls(int(represented.sum()), 1.0, reads, writes, embed, represented)


def similarities(
    truth: SiteTruth, V: Float[Tensor, "d_in C"], U: Float[Tensor, "C d_out"]
) -> Float[Tensor, "known C"]:
    """Cosine similarity (Frobenius) of each known rank-1 matrix with each subcomponent's.

    It is the product of two cosines, of what is read and of what is written, so both must be
    right. The sign counts: a matrix and its negative do opposite things.
    """
    reads, writes, found_reads = _directions(truth, V)
    return _cosine(reads, found_reads) * _cosine(writes, U)


def column_similarities(
    truth: SiteTruth, V: Float[Tensor, "d_in C"], U: Float[Tensor, "C d_out"]
) -> Float[Tensor, "known C"]:
    """|cosine| of each known column with that side of the subcomponents alone (MMCS of SPD).

    The other side is a unit vector per feature. Weaker than `similarities`: in a plane, a few
    random directions already come near to every column.
    """
    reads, writes, found_reads = _directions(truth, V)
    onehot = ((reads != 0).sum(-1) == 1).all()
    return (_cosine(writes, U) if onehot else _cosine(reads, found_reads)).abs()


def _directions(truth: SiteTruth, V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Known reads and writes of represented features, and the subcomponents' reads [C, any]."""
    assert truth.reads is not None and truth.writes is not None and truth.represented is not None
    found = V.T if truth.embed is None else (truth.embed @ V).T
    return truth.reads[truth.represented], truth.writes[truth.represented], found


def _cosine(known: Tensor, found: Tensor) -> Float[Tensor, "known C"]:
    return F.normalize(known, dim=-1) @ F.normalize(found, dim=-1).T


def compare(
    truth: SiteTruth,
    V: Float[Tensor, "d_in C"],
    U: Float[Tensor, "C d_out"],
    mean_ci: Float[Tensor, " C"],
    single_ci: Float[Tensor, "features C"],
) -> dict[str, Any]:
    """How near one site's decomposition is to the right one.

    Args:
        mean_ci: mean causal importance on held-out inputs; alive is above 1e-6.
        single_ci: causal importance while one feature alone is active; important is above 0.1.

    Returns:
        Counts (`alive`, `important_per_feature`) beside the right ones and, where directions are
        known, over the known matrices: mean and least of the highest cosine with an alive
        subcomponent (`mean_max_cosine`), the same of columns, the mean ratio of Frobenius norms to
        the best match (1: not split), and the share of features whose only important subcomponent
        is their best match (`exact_features`).
    """
    alive = mean_ci > ALIVE_MEAN_CI
    important = single_ci > CLEARLY_IMPORTANT_CI
    if truth.represented is not None:
        important = important[truth.represented]
    counts = important.sum(-1)
    found: dict[str, Any] = {
        "C": V.shape[1],
        "alive": int(alive.sum()),
        "alive_true": truth.alive,
        "important_per_feature": counts.float().mean().item(),
        "important_per_feature_true": truth.important,
    }
    if truth.reads is None:
        return found
    cosine, column = similarities(truth, V, U), column_similarities(truth, V, U)
    best, match = cosine.masked_fill(~alive, 0.0).max(-1)
    reads, writes, found_reads = _directions(truth, V)
    norms = found_reads.norm(dim=-1) * U.norm(dim=-1)
    ratio = norms[match] / (reads.norm(dim=-1) * writes.norm(dim=-1))
    exact = (counts == 1) & important.gather(1, match[:, None])[:, 0]
    return found | {
        "known": len(cosine),
        "mean_max_cosine": best.mean().item(),
        "least_max_cosine": best.min().item(),
        "mean_max_cosine_columns": column.masked_fill(~alive, 0.0).amax(-1).mean().item(),
        "mean_norm_ratio": torch.where(best > 0, ratio, 0.0).mean().item(),
        "exact_features": exact.float().mean().item(),
    }
