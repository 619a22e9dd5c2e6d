"""Edits as somebody else would write them, outside of the package."""

from __future__ import annotations

import torch
from torch import nn

from pd_finetune.edits.edit import Edit, Material
from pd_finetune.targets.changes import Dense, LowRank
from pd_finetune.targets.matrices import matrix_at


class Shrink(Edit):
    """W' = (1 - strength) W on the matrices of the selection; nothing is trained."""

    def __init__(self, material: Material, *, strength: float) -> None:
        sites = {key.site: material.basis.sites[key.site].module for key in material.keys}
        model = material.target.model
        self._deltas = {p: -strength * matrix_at(model, p).float() for p in sites.values()}
        self._strength = strength

    @property
    def paths(self) -> list[str]:
        return list(self._deltas)

    def at(self, path: str) -> Dense:
        return Dense(self._deltas[path])

    def describe(self) -> dict[str, float]:
        return {"strength": self._strength}


class Reading(Edit):
    """W' = W + u V^T: of the first subcomponent the read-in is kept, what it writes is trained."""

    def __init__(self, material: Material, *, start: float = 0.0) -> None:
        key = material.keys[0]
        self._path = material.basis.sites[key.site].module
        V, U = material.basis.vectors(key)
        self._V = V.float()[:, None].to(material.target.device)
        self._u = nn.Parameter(start * U.float().to(material.target.device))

    @property
    def paths(self) -> list[str]:
        return [self._path]

    def at(self, path: str) -> LowRank:
        return LowRank(self._V, self._u[None])

    def parameters(self) -> list[nn.Parameter]:
        return [self._u]

    def scalars(self) -> dict[str, float]:
        return {"norm": float(torch.linalg.vector_norm(self._u.detach()))}
