"""A first V and U that reproduce W exactly, before any training."""

import torch
from torch import Tensor, nn

from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.sites import weight_at


def fit_to_weight(weight: Tensor, C: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """V [d_in, C] and U [C, d_out] with (V U)^T = W where C is at or above W's rank.

    V is a random tight frame of W's row space (V V^T projects on it), so U = V^T W^T is both the
    least-squares and the minimum-norm fit and nothing is ill-conditioned. Below the rank, V spans
    the leading right singular vectors and Delta carries the rest.
    """
    W = weight.detach().double().cpu()
    _, values, rows = torch.linalg.svd(W, full_matrices=False)
    rank = int((values > values[0] * 1e-10).sum())
    basis = rows[: min(rank, C)].T
    noise = torch.randn(C, basis.shape[1], generator=generator, dtype=torch.float64)
    frame, _ = torch.linalg.qr(noise)
    V = basis @ frame.T
    return V.to(weight), (V.T @ W.T).to(weight)


@torch.no_grad()
def initialise(components: Subcomponents, model: nn.Module, seed: int) -> None:
    """Fit every site's V and U to the model's weights."""
    generator = torch.Generator().manual_seed(seed)
    for name, site in components.sites.items():
        V, U = fit_to_weight(weight_at(model, site).float(), site.C, generator)
        components.V(name).copy_(V)
        components.U(name).copy_(U)
