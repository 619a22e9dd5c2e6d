"""Masked forwards of one batch, each compared with the same clean forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import SiteMask, Subcomponents, recorded_inputs
from pd_finetune.decomposition.masked_site import SourcedMask
from pd_finetune.decomposition.readings import Kernels
from pd_finetune.decomposition.recompute import masked_recomputed
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
        recompute: masked forwards keep no activations of the model's blocks, see `recompute`.
    """

    def __init__(
        self,
        model: nn.Module,
        components: Subcomponents,
        ci_function: CIFunction,
        batch: Tensor,
        precision: str = "float32",
        readout: Readout | None = None,
        recompute: bool = False,
    ) -> None:
        self.model, self.components, self.ci_function = model, components, ci_function
        self.batch, self.precision, self.recompute = batch, precision, recompute
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
        """Causal-importance outputs of all sites, before the sigmoids, in float32."""
        with autocast(self.batch.device, self.precision):
            return self.ci_function(self.inputs).float()

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

    def divergence_from_sources(
        self,
        ci: Sequence[Float[Tensor, "rows pos C"]],
        sources: Float[Tensor, "hostile _ C_and_sites"] | None,
        noise: Float[Tensor, "others pos C_and_sites"] | None,
        kernels: Kernels,
        route: Bool[Tensor, "rows pos sites"] | None = None,
        frozen: bool = False,
    ) -> Float[Tensor, "rows pos"]:
        """As above, masks and Delta's masks made of the raw ones: g + (1 - g) r.

        Args:
            ci: causal importances of each site.
            sources: r of the first rows and of their Delta, one per site, in the last dimension.
            noise: the same of the other rows.
            frozen: no gradients for V and U.
        """
        order, widths = self.ci_function.order, [*self.ci_function.C, len(self.ci_function.order)]
        hostile, others = (
            [None] * len(widths) if r is None else r.split(widths, -1) for r in (sources, noise)
        )
        length = self.batch.shape[1]
        deltas = [r.expand(-1, length, -1) for r in (hostile[-1], others[-1]) if r is not None]
        delta = torch.cat(deltas)
        masks = {
            name: SourcedMask(
                ci[i],
                hostile[i],
                others[i],
                delta[..., i],
                kernels,
                None if route is None else route[..., i],
                frozen,
            )
            for i, name in enumerate(order)
        }
        return self._compare(self._masked(masks))

    def divergence_under(
        self, masks: Mapping[str, SiteMask | SourcedMask]
    ) -> Float[Tensor, "rows pos"]:
        """As above, the named sites replaced in one forward, each in its own way."""
        return self.readout.divergence(self._masked(masks), self.clean)

    def _masked(self, masks: Mapping[str, SiteMask | SourcedMask]) -> Float[Tensor, "rows pos any"]:
        context = masked_recomputed if self.recompute else Subcomponents.masked
        with context(self.components, self.model, masks):
            return self._output()

    @cached_property
    def _compare(self) -> Callable[[Tensor], Tensor]:
        with torch.no_grad():
            return self.readout.from_clean(self.clean)
