"""Masked forwards of one batch, each compared with the same clean forward."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import SiteMask, Subcomponents, recorded_inputs
from pd_finetune.decomposition.divergence import divergence_from_clean
from pd_finetune.runtime import autocast
from pd_finetune.targets.head import has_linear_head


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
        self._linear_head = has_linear_head(model)
        wanted = set(ci_function.inputs)
        with torch.no_grad(), recorded_inputs(model, components.sites, wanted) as inputs:
            self.clean = self._output()
        self.inputs: dict[str, Tensor] = inputs

    def _output(self) -> Float[Tensor, "rows pos any"]:
        """Last hidden states where the head is linear, else logits."""
        run: Any = self.model.base_model if self._linear_head else self.model
        with autocast(self.ids.device, self.precision):
            output = run(input_ids=self.ids, use_cache=False)
        result: Tensor = output.last_hidden_state if self._linear_head else output.logits
        return result

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
        return self.divergence_under(masks)

    def divergence_under(self, masks: dict[str, SiteMask]) -> Float[Tensor, "rows pos"]:
        """KL(clean || masked) in nats per position, the named sites replaced in one forward."""
        with self.components.masked(self.model, masks):
            masked = self._output()
        if self._linear_head:
            head = self.model.get_output_embeddings()  # type: ignore[operator]
            return divergence_from_clean(masked, self.clean, head)
        log_p, log_q = self.clean.float().log_softmax(-1), masked.float().log_softmax(-1)
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
