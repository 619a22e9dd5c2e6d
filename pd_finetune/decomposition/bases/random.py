"""`decomposition=random`: directions that nothing speaks for, to compare others with."""

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
    count: int,
    seed: int,
) -> Decomposition:
    """Uniform unit vectors v of the input; a piece is W's own action on one, outer(W v, v)."""
    generator = torch.Generator().manual_seed(seed)
    found, pieces = sites_like(target, sites), {}
    for name, site in found.items():
        noise = torch.randn(site.d_in, count, generator=generator, dtype=torch.float64)
        V = noise / noise.norm(dim=0)
        pieces[name] = V, V.T @ weight_at(target.model, site).double().cpu().T
    return assembled(target, found, pieces, {"basis": "random", "seed": seed, "tokens": {}})
