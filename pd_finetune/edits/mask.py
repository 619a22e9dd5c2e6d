"""One trainable scale per selected subcomponent: W' = W + sum_c (m_c - 1) U_c V_c^T."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pd_finetune.edits.edit import Edit, Material
from pd_finetune.errors import UserError
from pd_finetune.files import write_json
from pd_finetune.targets.changes import LowRank
from pd_finetune.targets.keys import SubcomponentKey


class Mask(Edit):
    """Scales of chosen subcomponents; m > 1 amplifies, 0 <= m < 1 suppresses, m < 0 inverts.

    The weight keeps everything else, Delta included (Bushnaq 2026), which is why only the change
    (m - 1) is added.

    Args:
        start: value of every scale at step 0.

    Raises:
        UserError: no key, a repeated key, or a key that the basis does not have.
    """

    def __init__(self, material: Material, *, start: float = 1.0) -> None:
        if not material.keys:
            raise UserError("this method needs a selection, and this one is empty: choose another")
        self.keys = [material.basis.check(key) for key in material.keys]
        repeated = sorted({str(key) for key in self.keys if self.keys.count(key) > 1})
        if repeated:
            raise UserError(f"selection names {', '.join(repeated)} more than once: name it once")
        self._keys_at: dict[str, list[SubcomponentKey]] = {}  # by module path
        for key in self.keys:
            self._keys_at.setdefault(material.basis.sites[key.site].module, []).append(key)
        device = material.target.device
        self._V: dict[str, Float[Tensor, "d_in selected"]] = {}
        self._U: dict[str, Float[Tensor, "selected d_out"]] = {}
        self._masks: dict[str, nn.Parameter] = {}
        for path, keys in self._keys_at.items():
            pairs = [material.basis.vectors(key) for key in keys]
            self._V[path] = torch.stack([V for V, _ in pairs], 1).float().to(device)
            self._U[path] = torch.stack([U for _, U in pairs], 0).float().to(device)
            self._masks[path] = nn.Parameter(torch.full((len(keys),), start, device=device))

    @property
    def paths(self) -> Sequence[str]:
        return list(self._masks)

    def at(self, path: str) -> LowRank:
        return LowRank(self._V[path] * (self._masks[path] - 1), self._U[path])

    def parameters(self) -> list[nn.Parameter]:
        """One vector of scales per touched matrix."""
        return list(self._masks.values())

    def scalars(self) -> dict[str, float]:
        """The scale of each subcomponent by key."""
        values: dict[SubcomponentKey, float] = {}
        for path, masks in self._masks.items():
            values |= dict(zip(self._keys_at[path], masks.tolist(), strict=True))
        return {str(key): values[key] for key in self.keys}

    def save(self, folder: Path) -> None:
        """Write the change, and `mask.json`: {key: scale}."""
        super().save(folder)
        write_json(folder / "mask.json", self.scalars())
