"""A first V and U that reproduce W exactly, before any training: from W alone, or from text."""

from dataclasses import asdict

import torch
from torch import Tensor, nn

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.config import CIFunctionConfig
from pd_finetune.decomposition.data_start import DATA_STARTS, SiteInputs, fits_to_data
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.sites import Site, weight_at
from pd_finetune.distributed import Workers
from pd_finetune.errors import UserError


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


def fit_freely(weight: Tensor, C: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """V [d_in, C] and U [C, d_out] with (V U)^T = W, neither confined to W's row or column space.

    Where features outnumber dimensions (superposition), the right V or U reads or writes one
    feature, which lies outside of those spaces. V is a random tight frame of all of the inputs, and
    U has, beside V^T W^T, a random part that V takes to zero, as large as the rest. It needs C of
    at least d_in; below, this is `fit_to_weight`.
    """
    d_out, d_in = weight.shape
    if d_in > C:
        return fit_to_weight(weight, C, generator)
    W = weight.detach().double().cpu()
    noise = torch.randn(C, d_in, generator=generator, dtype=torch.float64)
    V = torch.linalg.qr(noise)[0].T
    U = V.T @ W.T
    free = torch.randn(C, d_out, generator=generator, dtype=torch.float64)
    free = free - V.T @ (V @ free)
    if free.norm() > 1e-6:
        U = U + free * (U.norm() / free.norm())
    return V.to(weight), U.to(weight)


INITIAL = {"row_space": fit_to_weight, "free": fit_freely}  # and DATA_STARTS, which need text


@torch.no_grad()
def initialise(
    components: Subcomponents,
    model: nn.Module,
    seed: int,
    initial: str = "row_space",
    inputs: SiteInputs | None = None,
    workers: Workers | None = None,
) -> None:
    """Fit every site's V and U to the model's weights, in one of the `INITIAL` or `DATA_STARTS`.

    Args:
        inputs: what sites read; `DATA_STARTS` need it.
        workers: all take the first one's, as starts from data need not agree to the last bit.

    Raises:
        UserError: a start from data, and a site whose C it does not make.
    """
    weights = {name: weight_at(model, site).float() for name, site in components.sites.items()}
    if initial in DATA_STARTS:
        assert inputs is not None, f"initial={initial} needs the sites' inputs"
        fits = fits_to_data(weights, components.sites, inputs, initial, seed)
    else:
        generator = torch.Generator().manual_seed(seed)
        sizes = {name: site.C for name, site in components.sites.items()}
        fits = {n: INITIAL[initial](W, sizes[n], generator) for n, W in weights.items()}
    for name, (V, U) in fits.items():
        components.V(name).copy_(V)
        components.U(name).copy_(U)
    if workers is not None and initial in DATA_STARTS:
        for parameter in components.parameters():
            parameter.copy_(workers.gather(parameter.detach()[None])[0])


def check_start(start: Decomposition, sites: dict[str, Site], size: CIFunctionConfig) -> None:
    """Whether a training of these sites can begin with another decomposition of the same target.

    Raises:
        UserError: the start has other sites, other numbers of subcomponents or a CI function of
            another size.
    """
    for name in sorted({*sites, *start.sites}):
        asked, found = (of[name].C if name in of else 0 for of in (sites, start.sites))
        if asked != found:
            raise UserError(
                f"start_from has {found} subcomponents at {name}, sites asks for {asked}: "
                "give the same sites, or leave start_from out"
            )
    if size != start.ci_function.size:
        stated = ", ".join(f"{k}: {value}" for k, value in asdict(start.ci_function.size).items())
        raise UserError(
            "start_from has a causal-importance function of another size: give "
            f"'ci_function={{{stated}}}', or leave start_from out"
        )


@torch.no_grad()
def begin_with(start: Decomposition, components: Subcomponents, ci_function: CIFunction) -> None:
    """Take V, U and the causal-importance function of a start that was checked.

    Args:
        ci_function: made with the start's `reads`: fed the same inputs in the same order.
    """
    assert ci_function.reads == start.ci_function.reads
    components.load_state_dict(start.components.state_dict())
    ci_function.load_state_dict(start.ci_function.state_dict())
