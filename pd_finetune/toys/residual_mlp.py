"""Residual MLP: the compressed computation of ReLU (APD, arXiv:2501.14926; SPD, 2506.20790)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pd_finetune.toys.model import ToyModel
from pd_finetune.toys.truth import SiteTruth


class _Layer(nn.Module):
    def __init__(self, embedding: int, neurons: int) -> None:
        super().__init__()
        self.mlp_in = nn.Linear(embedding, neurons, bias=False)
        self.mlp_out = nn.Linear(neurons, embedding, bias=False)
        nn.init.xavier_normal_(self.mlp_in.weight)
        nn.init.xavier_normal_(self.mlp_out.weight)

    def forward(self, stream: Float[Tensor, "rows pos d"]) -> Float[Tensor, "rows pos d"]:
        out: Tensor = self.mlp_out(torch.relu(self.mlp_in(stream)))
        return out


class ResidualMLP(ToyModel):
    """`x + ReLU(x)` per feature, by MLP layers of fewer neurons than there are features.

    Features are embedded by random unit vectors E [features, embedding], fixed and not decomposed;
    the outputs are read out by the same vectors.

    Args:
        neurons: of each layer.
    """

    def __init__(self, features: int, embedding: int, neurons: int, layers: int = 1) -> None:
        super().__init__(features)
        E = F.normalize(torch.randn(features, embedding), dim=-1)
        self.embedding = nn.Parameter(E, requires_grad=False)
        self.layers = nn.ModuleList(_Layer(embedding, neurons) for _ in range(layers))

    def forward(self, x: Float[Tensor, "rows pos features"]) -> Float[Tensor, "rows pos features"]:
        stream = x @ self.embedding
        for layer in self.layers:
            stream = stream + layer(stream)
        return stream @ self.embedding.T

    def wanted(self, x: Float[Tensor, "rows pos features"]) -> Float[Tensor, "rows pos features"]:
        return x + torch.relu(x)

    def constrained(self) -> dict[str, Tensor]:
        """Weights without what lies outside the span of E: nothing is read from or seen of it.

        Initial noise there would otherwise have to be decomposed, for faithfulness' sake.
        """
        P = torch.linalg.pinv(self.embedding) @ self.embedding
        found = {}
        for name, weight in self.named_parameters():
            if name.endswith("mlp_in.weight"):
                found[name] = weight @ P
            elif name.endswith("mlp_out.weight"):
                found[name] = P @ weight
        return found

    def truth(self) -> dict[str, SiteTruth]:
        """`mlp_in`: feature i's computation, what it writes to the neurons, `W_in E_i`.

        A subcomponent is compared by how much it reads of each *feature* (E V), as features are
        not orthogonal. `mlp_out` has as many subcomponents as W_out has rank; which directions,
        and how many of them a feature needs, is not determined, as all features share the neurons.
        """
        onehot = torch.eye(self.features).to(self.embedding)
        found = {}
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, _Layer)
            writes = self.embedding @ layer.mlp_in.weight.T
            found[f"layers.{i}.mlp_in"] = SiteTruth.columns(onehot, writes, embed=self.embedding)
            rank = int(torch.linalg.matrix_rank(layer.mlp_out.weight))
            found[f"layers.{i}.mlp_out"] = SiteTruth(alive=rank, important=None)
        return found
