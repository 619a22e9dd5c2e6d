"""`decomposition=svd`: one piece per singular value of each matrix; index 0 is the largest."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pd_finetune.decomposition.bases.assemble import assembled, sites_like
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.sites import weight_at
from pd_finetune.targets.load import Target
from pd_finetune.text.tokens import DocumentSource


@torch.no_grad()
def build(
    target: Target,
    source: DocumentSource | None = None,
    languages: Sequence[str] = (),
    *,
    sites: Sequence[str] = ("*",),
) -> Decomposition:
    """V holds right singular vectors, U the left ones times their values: (V U)^T = W."""
    found, pieces = sites_like(target, sites), {}
    for name, site in found.items():
        W = weight_at(target.model, site).double()
        left, values, right = torch.linalg.svd(W, full_matrices=False)
        pieces[name] = right.T, (left * values).T
    return assembled(target, found, pieces, {"basis": "svd", "tokens": {}})
