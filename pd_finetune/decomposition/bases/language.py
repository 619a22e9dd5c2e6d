"""Pieces of W that answer one language: from differences of means of what a site reads.

`h.1.attn.o_proj:0` is the piece of the first of `languages.all`, in their order. With d the mean of
the language's inputs less the mean of the others', it is W's own action on d, outer(W d, v), where
v reads how much of d is there (v . d = 1): W changes by (m - 1) times it. At m = 0 the language's
mean goes where that of the others goes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pd_finetune.decomposition.bases.assemble import assembled, sites_like
from pd_finetune.decomposition.bases.statistics import InputStatistics, input_statistics
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.sites import weight_at
from pd_finetune.targets.load import Target
from pd_finetune.text.tokens import DocumentSource

Reading = Callable[[InputStatistics, int], Float[Tensor, " d_in"]]


def lda_reading(ridge: float) -> Reading:
    """Linear discriminant of a language against the rest, (S + ridge I)^-1 d up to its length.

    Fisher (1936). S: the covariance within the two; ridge is a share of its mean eigenvalue.
    """

    def reading(found: InputStatistics, language: int) -> Tensor:
        S = found.within(language)
        regular = S + ridge * S.diagonal().mean() * torch.eye(len(S), dtype=S.dtype)
        return torch.linalg.solve(regular, found.difference(language))

    return reading


def mean_reading(found: InputStatistics, language: int) -> Float[Tensor, " d_in"]:
    """The difference of means itself."""
    return found.difference(language)


def build_lda(
    target: Target,
    source: DocumentSource,
    languages: Sequence[str],
    *,
    ridge: float,
    **settings: Any,
) -> Decomposition:
    """`decomposition=lda`: each language's linear discriminant against the rest."""
    return _build(target, source, languages, lda_reading(ridge), "lda", **settings)


def build_mean_difference(
    target: Target, source: DocumentSource, languages: Sequence[str], **settings: Any
) -> Decomposition:
    """`decomposition=mean_difference`: each language's mean against that of the rest."""
    return _build(target, source, languages, mean_reading, "mean_difference", **settings)


@torch.no_grad()
def _build(
    target: Target,
    source: DocumentSource,
    languages: Sequence[str],
    reading: Reading,
    name: str,
    *,
    sites: Sequence[str] = ("*",),
    **settings: Any,
) -> Decomposition:
    found, pieces = sites_like(target, sites), {}
    statistics, spent = input_statistics(target, source, languages, found, **settings)
    for site, own in statistics.items():
        W = weight_at(target.model, found[site]).double().cpu()
        reads, writes = [], []
        for index in range(len(languages)):
            d, v = own.difference(index), reading(own, index)
            along = v @ d
            reads.append(v / along if along != 0 else torch.zeros_like(v))
            writes.append(W @ d)
        pieces[site] = torch.stack(reads, 1), torch.stack(writes)
    record = {"basis": name, "languages": list(languages), **settings, "tokens": spent}
    return assembled(target, found, pieces, record)
