"""Masked forwards of one batch, each compared with the same clean forward."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import SiteMask, Subcomponents, recorded_inputs
from pd_finetune.targets.readout import LogitReadout, Readout


class Reconstruction:
    """The clean forward of a batch, and masked forwards of it, in float32.

    Args:
        model: the frozen target.
        components: V and U of its sites.
        ci_function: says which inputs to record.
        batch: token ids [rows, pos], or a toy's inputs [rows, pos, features].
        readout: how the model is run and compared; None: as a language model, by KL.
    """

    def __init__(
        self,
        model: nn.Module,
        components: Subcomponents,
        ci_function: CIFunction,
        batch: Tensor,
        readout: Readout | None = None,
    ) -> None:
        self.model, self.components, self.ci_function = model, components, ci_function
        self.batch, self.readout = batch, readout or LogitReadout(model)
        wanted = set(ci_function.inputs)
        with torch.no_grad(), recorded_inputs(model, components.sites, wanted) as inputs:
            self.clean = self.readout.output(batch)
        self.inputs: dict[str, Tensor] = inputs

    @property
    def positions(self) -> int:
        """Rows times positions: the tokens of the batch, or a toy's samples."""
        return self.batch.shape[0] * self.batch.shape[1]

    def pre_sigmoid(self) -> Float[Tensor, "rows pos C"]:
        """Causal-importance outputs of all sites, before the sigmoids."""
        return self.ci_function(self.inputs)

    def divergence_under(self, masks: Mapping[str, SiteMask]) -> Float[Tensor, "rows pos"]:
        """Divergence from the clean output per position, the named sites replaced in one forward.

        KL(clean || masked) in nats, or what else the readout compares by.
        """
        with self.components.masked(self.model, masks):
            return self.readout.divergence(self.readout.output(self.batch), self.clean)
