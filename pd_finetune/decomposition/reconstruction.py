"""Masked forwards of one batch, each compared with the same clean forward."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import SiteMask, Subcomponents, recorded_inputs
from pd_finetune.runtime import autocast
from pd_finetune.targets.readout import LogitReadout, Readout


class Reconstruction:
    """The clean forward of a batch, and masked forwards of it.

    Args:
        model: the frozen target.
        components: V and U of its sites.
        ci_function: gives site order and which inputs to record.
        batch: token ids [rows, pos], or a toy's inputs [rows, pos, features].
        precision: see `runtime.autocast`.
        readout: how the model is run and compared; None: as a language model, by KL.
    """

    def __init__(
        self,
        model: nn.Module,
        components: Subcomponents,
        ci_function: CIFunction,
        batch: Tensor,
        precision: str = "float32",
        readout: Readout | None = None,
    ) -> None:
        self.model, self.components, self.ci_function = model, components, ci_function
        self.batch, self.precision = batch, precision
        self.readout = readout or LogitReadout(model)
        wanted = set(ci_function.inputs)
        with torch.no_grad(), recorded_inputs(model, components.sites, wanted) as inputs:
            self.clean = self._output()
        self.inputs: dict[str, Tensor] = inputs

    @property
    def positions(self) -> int:
        """Rows times positions: the tokens of the batch, or a toy's samples."""
        return self.batch.shape[0] * self.batch.shape[1]

    def _output(self) -> Float[Tensor, "rows pos any"]:
        with autocast(self.batch.device, self.precision):
            return self.readout.output(self.batch)

    def pre_sigmoid(self) -> Float[Tensor, "rows pos C"]:
        """Causal-importance outputs of all sites, before the sigmoids."""
        with autocast(self.batch.device, self.precision):
            return self.ci_function(self.inputs)

    def divergence(
        self,
        mask: Float[Tensor, "rows pos C"],
        delta: Float[Tensor, "rows pos sites"] | None = None,
        route: Bool[Tensor, "rows pos sites"] | None = None,
    ) -> Float[Tensor, "rows pos"]:
        """Divergence from the clean output per position, all sites replaced in one forward.

        KL(clean || masked) in nats, or what else the readout compares by.

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
        return self.divergence_under(masks)

    def divergence_under(self, masks: Mapping[str, SiteMask]) -> Float[Tensor, "rows pos"]:
        """As above, the named sites replaced in one forward, each in its own way."""
        with self.components.masked(self.model, masks):
            return self.readout.divergence(self._output(), self.clean)
