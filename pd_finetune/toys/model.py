"""What every toy offers: a forward, what it should have computed, and its right decomposition."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pd_finetune.targets.load import weights_hash
from pd_finetune.toys.truth import SiteTruth


class ToyModel(nn.Module, ABC):
    """A small model of `features` inputs and as many outputs, its matrices `nn.Linear`s."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    @abstractmethod
    def forward(self, x: Float[Tensor, "rows pos features"]) -> Float[Tensor, "rows pos features"]:
        """The outputs that it gives."""

    @abstractmethod
    def wanted(self, x: Float[Tensor, "rows pos features"]) -> Float[Tensor, "rows pos features"]:
        """The outputs that it is trained to give."""

    def constrained(self) -> dict[str, Tensor]:
        """Weights as functions of others (tied, projected), by name; used while training."""
        return {}

    @abstractmethod
    def truth(self) -> dict[str, SiteTruth]:
        """Per site, the right decomposition of the trained weights."""


class MSEReadout:
    """Toys: squared error between masked and clean output, *mean* over outputs, per sample.

    Assumed, not checked against a source: that the published coefficients of toys go with a mean.
    Their sizes speak for it: with more outputs each feature weighs less, and so do the minimality
    coefficients (8e-4 at 5 features, 6e-5 at 40).
    """

    term: ClassVar[str] = "mse"

    def __init__(self, model: ToyModel) -> None:
        self.model = model

    def example(self) -> Float[Tensor, "rows pos features"]:
        device = next(self.model.parameters()).device
        return torch.zeros(1, 1, self.model.features, device=device)

    def output(
        self, batch: Float[Tensor, "rows pos features"]
    ) -> Float[Tensor, "rows pos features"]:
        out: Tensor = self.model(batch)
        return out

    def divergence(
        self, masked: Float[Tensor, "rows pos any"], clean: Float[Tensor, "rows pos any"]
    ) -> Float[Tensor, "rows pos"]:
        """Mean over outputs of (masked - clean)^2, in float32."""
        return (masked.float() - clean.float()).square().mean(-1)


class ToyTarget:
    """A trained toy, frozen, as the trainer takes it."""

    def __init__(self, model: ToyModel, name: str) -> None:
        self.model, self.name = model.requires_grad_(False).eval(), name

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def readout(self) -> MSEReadout:
        return MSEReadout(self.model)

    @cached_property
    def hash(self) -> str:
        """Hex SHA-256 over its name and weights."""
        return hashlib.sha256(f"{self.name} {weights_hash(self.model)}".encode()).hexdigest()
