"""Masked forwards of one batch, each compared with the same clean forward."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import SiteMask, Subcomponents, recorded_inputs
from pd_finetune.decomposition.divergence import divergence_from_clean
from pd_finetune.runtime import autocast


class Reconstruction:
    """The clean forward of a batch, and masked forwards of it.

    Args:
        model: the frozen target.
        components: V and U of its sites.
        ci_function: gives site order and which inputs to record.
        ids: the batch.
        precision: see `runtime.autocast`.
    """

    def __init__(
        self,
        model: nn.Module,
        components: Subcomponents,
        ci_function: CIFunction,
        ids: Int[Tensor, "rows pos"],
        precision: str = "float32",
    ) -> None:
        self.model, self.components, self.ci_function = model, components, ci_function
        self.ids, self.precision = ids, precision
        wanted = set(ci_function.inputs)
        with torch.no_grad(), recorded_inputs(model, components.sites, wanted) as inputs:
            self.clean = self._hidden()
        self.inputs: dict[str, Tensor] = inputs

    def _hidden(self) -> Float[Tensor, "rows pos width"]:
        decoder = self.model.base_model
        assert isinstance(decoder, nn.Module)
        with autocast(self.ids.device, self.precision):
            hidden = decoder(input_ids=self.ids, use_cache=False).last_hidden_state
        assert isinstance(hidden, Tensor)
        return hidden

    def pre_sigmoid(self) -> Float[Tensor, "rows pos C"]:
        """Causal-importance outputs of all sites, before the sigmoids, in float32."""
        with autocast(self.ids.device, self.precision):
            return self.ci_function(self.inputs).float()

    def divergence(
        self,
        mask: Float[Tensor, "rows pos C"],
        delta: Float[Tensor, "rows pos sites"] | None = None,
        route: Bool[Tensor, "rows pos sites"] | None = None,
    ) -> Float[Tensor, "rows pos"]:
        """KL(clean || masked) in nats per position, all sites replaced in one forward.

        Args:
            mask: masks of all subcomponents, sites concatenated in sorted order.
            delta: masks of each site's Delta; None drops Delta.
            route: which positions of which sites are replaced; None: all.
        """
        masks = {
            name: SiteMask(
                part,
                None if delta is None else delta[..., i],
                None if route is None else route[..., i],
            )
            for i, (name, part) in enumerate(self.ci_function.split(mask).items())
        }
        with self.components.masked(self.model, masks):
            hidden = self._hidden()
        head = self.model.get_output_embeddings()  # type: ignore[operator]
        return divergence_from_clean(hidden, self.clean, head)
