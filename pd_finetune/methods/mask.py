"""One trainable scale per selected subcomponent: W' = W + sum_c (m_c - 1) U_c V_c^T."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.sites import module_at, weight_at
from pd_finetune.errors import UserError
from pd_finetune.files import write_json
from pd_finetune.targets.keys import SubcomponentKey, layer_of_site
from pd_finetune.targets.load import Target
from pd_finetune.targets.low_rank import Product, adding


class MaskMethod:
    """Scales of chosen subcomponents; m > 1 amplifies, 0 <= m < 1 suppresses, m < 0 inverts.

    The weight keeps everything else, Delta included (Bushnaq 2026), which is why only the change
    (m - 1) is added: the runtime edit and the baked weight are the same function.

    Args:
        keys: the subcomponents, each once.
        start: value of every scale at step 0.
        seed: not used; every method takes one.

    Raises:
        UserError: no key, a repeated key, or a key that the decomposition does not have.
    """

    def __init__(
        self,
        target: Target,
        decomposition: Decomposition,
        keys: Sequence[SubcomponentKey],
        *,
        name: str = "mask",
        lr: float = 0.3,
        start: float = 1.0,
        seed: int = 0,
    ) -> None:
        if not keys:
            raise UserError("method=mask needs a selection, and this one is empty: choose another")
        repeated = sorted({str(key) for key in keys if list(keys).count(key) > 1})
        if repeated:
            raise UserError(f"selection names {', '.join(repeated)} more than once: name it once")
        self.name, self.lr = name, lr
        self.keys = [decomposition.check(key) for key in keys]
        self._model = target.model
        self._sites = {key.site: decomposition.sites[key.site] for key in self.keys}
        self._V: dict[str, Float[Tensor, "d_in selected"]] = {}
        self._U: dict[str, Float[Tensor, "selected d_out"]] = {}
        self._masks: dict[str, nn.Parameter] = {}  # one vector a site
        for site in self._sites:
            pairs = [decomposition.vectors(key) for key in self._keys_at(site)]
            device = weight_at(target.model, self._sites[site]).device
            self._V[site] = torch.stack([V for V, _ in pairs], 1).float().to(device)
            self._U[site] = torch.stack([U for _, U in pairs], 0).float().to(device)
            self._masks[site] = nn.Parameter(torch.full((len(pairs),), start, device=device))

    def _keys_at(self, site: str) -> list[SubcomponentKey]:
        return [key for key in self.keys if key.site == site]

    @property
    def trainable_count(self) -> int:
        """Number of scales."""
        return len(self.keys)

    @property
    def lowest_layer(self) -> int | None:
        """The lowest layer that holds a selected subcomponent; None where a site names no layer."""
        layers = [layer_of_site(site) for site in self._sites]
        return None if None in layers else min(layer for layer in layers if layer is not None)

    def parameters(self) -> list[nn.Parameter]:
        """One vector of scales per touched site."""
        return list(self._masks.values())

    @contextmanager
    def edited(self) -> Iterator[None]:
        """Within the context the touched sites add `x (V (m - 1)) U` to their output."""
        sites = self._sites.items()
        with adding(
            {module_at(self._model, site): partial(self._product, name) for name, site in sites}
        ):
            yield

    def _product(self, site: str) -> Product:
        return self._V[site] * (self._masks[site] - 1), self._U[site]

    @torch.no_grad()
    def edited_weights(self) -> dict[str, Float[Tensor, "d_out d_in"]]:
        """W + sum_c (m_c - 1) U_c V_c^T of each touched matrix, by module path, in float32."""
        return {
            site.module: weight_at(self._model, site).float() + torch.mm(*self._product(name)).T
            for name, site in self._sites.items()
        }

    def scalars(self) -> dict[str, float]:
        """The scale of each subcomponent by key."""
        values = {}
        for site, masks in self._masks.items():
            for key, value in zip(self._keys_at(site), masks.tolist(), strict=True):
                values[str(key)] = value
        return {str(key): values[str(key)] for key in self.keys}

    def set_scalars(self, values: dict[str, float]) -> None:
        """Put scales in place, as read from `mask.json`; every key must be given."""
        for site, masks in self._masks.items():
            new = [values[str(key)] for key in self._keys_at(site)]
            masks.data = torch.tensor(new, dtype=masks.dtype, device=masks.device)

    def record(self) -> dict[str, Any]:
        """The scales by key."""
        return {"masks": self.scalars()}

    def save(self, folder: Path) -> None:
        """Write `mask.json`: {key: scale}."""
        write_json(folder / "mask.json", self.scalars())
