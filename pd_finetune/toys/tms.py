"""Toy model of superposition (Elhage et al. 2022): sparse features in fewer dimensions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pd_finetune.toys.model import ToyModel
from pd_finetune.toys.truth import SiteTruth


class TMS(ToyModel):
    """`ReLU(W^T W x + b)`, W [hidden, features]; as two layers whose weights are tied in training.

    Args:
        identity: put a frozen identity matrix between the two layers (TMS-identity of SPD,
            arXiv:2506.20790).
    """

    def __init__(self, features: int, hidden: int, identity: bool = False) -> None:
        super().__init__(features)
        self.down = nn.Linear(features, hidden, bias=False)
        self.identity = nn.Linear(hidden, hidden, bias=False) if identity else None
        self.up = nn.Linear(hidden, features)
        nn.init.xavier_normal_(self.down.weight)
        nn.init.zeros_(self.up.bias)
        with torch.no_grad():
            self.up.weight.copy_(self.down.weight.T)
            if self.identity is not None:
                self.identity.weight.copy_(torch.eye(hidden))
                self.identity.requires_grad_(False)

    def forward(self, x: Float[Tensor, "rows pos features"]) -> Float[Tensor, "rows pos features"]:
        hidden = self.down(x)
        if self.identity is not None:
            hidden = self.identity(hidden)
        return torch.relu(self.up(hidden))

    def wanted(self, x: Float[Tensor, "rows pos features"]) -> Float[Tensor, "rows pos features"]:
        """The inputs themselves."""
        return x

    def constrained(self) -> dict[str, Tensor]:
        """The second matrix is the first, transposed."""
        return {"up.weight": self.down.weight.T}

    def truth(self) -> dict[str, SiteTruth]:
        """The columns of W, one subcomponent per feature, at both sites.

        The identity is of full rank `hidden` and every feature passes through all of it: `hidden`
        subcomponents, all of them important for any feature. In which directions it is cut is not
        determined, so there are no columns to compare with. (More than `hidden` directions, one
        per feature, would reproduce it too, at a higher count.)
        """
        columns, onehot = self.down.weight.T, torch.eye(self.features).to(self.down.weight)
        found = {
            "down": SiteTruth.columns(reads=onehot, writes=columns),
            "up": SiteTruth.columns(reads=columns, writes=onehot),
        }
        if self.identity is not None:
            hidden = self.identity.in_features
            found["identity"] = SiteTruth(alive=hidden, important=float(hidden))
        return found
