"""What of a model's forward is compared, clean against masked, and by which divergence."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pd_finetune.targets.divergence import divergence_from_clean
from pd_finetune.targets.head import has_linear_head


class Readout(Protocol):
    """How a model is run on a batch, and how far a masked output is from the clean one.

    `term` names the divergence with its unit, as in `stochastic_<term>` in the metrics.
    """

    term: ClassVar[str]

    def example(self) -> Tensor:
        """A smallest batch, to see which tensors the sites read."""

    def output(self, batch: Tensor) -> Float[Tensor, "rows pos any"]:
        """The part of the forward that is compared."""

    def divergence(
        self, masked: Float[Tensor, "rows pos any"], clean: Float[Tensor, "rows pos any"]
    ) -> Float[Tensor, "rows pos"]:
        """Divergence of a masked output from the clean one, per position."""


class Decomposable(Protocol):
    """A frozen model with what its decomposition needs to know: a `Target` or a toy."""

    @property
    def model(self) -> nn.Module:
        """The module whose linear layers are decomposed."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    @property
    def hash(self) -> str:
        """Hex SHA-256 of its weights."""

    @property
    def readout(self) -> Readout:
        """Its forward and its divergence."""


class LogitReadout:
    """Language models: KL(clean || masked) in nats per position."""

    term: ClassVar[str] = "kl_nats"

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self._linear_head = has_linear_head(model)  # not asked in compiled code

    def example(self) -> Int[Tensor, "rows pos"]:
        return torch.zeros(1, 2, dtype=torch.long, device=self.model.device)

    def output(self, batch: Int[Tensor, "rows pos"]) -> Float[Tensor, "rows pos any"]:
        """Last hidden states where the head is linear, else logits."""
        run: Any = self.model.base_model if self._linear_head else self.model
        output = run(input_ids=batch, use_cache=False)
        result: Tensor = output.last_hidden_state if self._linear_head else output.logits
        return result

    def divergence(
        self, masked: Float[Tensor, "rows pos any"], clean: Float[Tensor, "rows pos any"]
    ) -> Float[Tensor, "rows pos"]:
        """KL(clean || masked) in nats, in float32."""
        if self._linear_head:
            return divergence_from_clean(masked, clean, self.model.get_output_embeddings())
        log_p, log_q = clean.float().log_softmax(-1), masked.float().log_softmax(-1)
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
