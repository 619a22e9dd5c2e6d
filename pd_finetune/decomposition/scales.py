"""Chosen scales of subcomponents as a change of the target's matrices."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.targets.changes import FixedChange, LowRank
from pd_finetune.targets.keys import SubcomponentKey


@torch.no_grad()
def change_of(
    basis: Decomposition, scales: Mapping[SubcomponentKey, float], device: torch.device
) -> FixedChange:
    """W' = W + sum_c (m_c - 1) U_c V_c^T, m_c the scale of subcomponent c.

    Raises:
        UserError: the basis does not have one of the keys.
    """
    by_path: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for key, scale in scales.items():
        V, U = basis.vectors(key)
        pairs = by_path.setdefault(basis.sites[key.site].module, [])
        pairs.append((V.float().to(device) * (scale - 1), U.float().to(device)))
    return FixedChange(
        {
            path: LowRank(torch.stack([V for V, _ in pairs], 1), torch.stack([U for _, U in pairs]))
            for path, pairs in by_path.items()
        }
    )
