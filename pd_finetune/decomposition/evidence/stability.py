"""Do two decompositions of the same target find the same subcomponents?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.errors import UserError

_CONTROLS = 8  # times that the other's U are dealt to its V anew, for the cosine to expect


def cosines(
    V: Float[Tensor, "d_in C"],
    U: Float[Tensor, "C d_out"],
    other_V: Float[Tensor, "d_in D"],
    other_U: Float[Tensor, "D d_out"],
) -> Float[Tensor, "C D"]:
    """Frobenius cosine of each rank-1 matrix with each of the other's.

    That of outer products is the product of the cosines of their factors; signs that V and U swap
    between them cancel. A matrix of 0 has cosine 0 with everything.
    """
    reads = torch.nn.functional.normalize(V, dim=0).T @ torch.nn.functional.normalize(
        other_V, dim=0
    )
    writes = (
        torch.nn.functional.normalize(U, dim=1) @ torch.nn.functional.normalize(other_U, dim=1).T
    )
    return reads * writes


def correlations(
    ci: Float[Tensor, "tokens C"], other: Float[Tensor, "tokens D"]
) -> Float[Tensor, "C D"]:
    """Pearson correlation over tokens of causal importances; 0 where one doesn't vary."""
    parts = []
    for values in (ci, other):
        centred = values - values.mean(0)
        norm = centred.norm(dim=0)
        parts.append(centred / torch.where(norm > 0, norm, torch.inf))
    return parts[0].T @ parts[1]


@torch.no_grad()
def matches(
    components: Subcomponents,
    ci: Mapping[str, Float[Tensor, "tokens C"]],
    other: Subcomponents,
    other_ci: Mapping[str, Float[Tensor, "tokens D"]],
    least_mean_ci: float,
    seed: int = 0,
) -> pd.DataFrame:
    """Each subcomponent's best match at the same site of the other decomposition.

    Args:
        ci, other_ci: causal importances by site on the same tokens.
        least_mean_ci: those of a lower mean CI stand on neither side.

    Returns:
        A row per subcomponent: `site`, `index`, `mean_ci`; `match`, the index of highest cosine,
        its `cosine`, `mutual` (whether it is the match of its match), `correlation` of the two's
        CI; `best_correlation` and `best_correlation_match` over all of the site; and
        `control_cosine`, the mean highest cosine when the other's U are dealt to its V at random.

    Raises:
        UserError: the two have different sites.
    """
    if set(components.sites) != set(other.sites):
        raise UserError(
            f"decompositions of different sites cannot be matched: {', '.join(components.sites)} "
            f"and {', '.join(other.sites)}"
        )
    generator = torch.Generator().manual_seed(seed)
    found = []
    for site in components.sites:
        mean, other_mean = ci[site].mean(0), other_ci[site].mean(0)
        own = (mean >= least_mean_ci).nonzero()[:, 0]
        others = (other_mean >= least_mean_ci).nonzero()[:, 0]
        if len(own) == 0 or len(others) == 0:
            continue
        V, U = components.V(site)[:, own], components.U(site)[own]
        other_V, other_U = other.V(site)[:, others], other.U(site)[others]
        cosine = cosines(V, U, other_V, other_U)
        correlation = correlations(ci[site][:, own], other_ci[site][:, others])
        best, match = cosine.max(1)
        most, most_match = correlation.max(1)
        mutual = cosine.argmax(0)[match] == torch.arange(len(own), device=match.device)
        control = torch.stack(
            [
                cosines(V, U, other_V, other_U[_dealt(len(others), generator)]).amax(1)
                for _ in range(_CONTROLS)
            ]
        ).mean(0)
        found.append(
            pd.DataFrame(
                {
                    "site": site,
                    "index": _list(own),
                    "mean_ci": _list(mean[own]),
                    "match": _list(others[match]),
                    "cosine": _list(best),
                    "mutual": _list(mutual),
                    "correlation": _list(correlation.gather(1, match[:, None])[:, 0]),
                    "best_correlation": _list(most),
                    "best_correlation_match": _list(others[most_match]),
                    "control_cosine": _list(control),
                }
            )
        )
    if not found:
        raise UserError(f"no site has subcomponents of mean CI {least_mean_ci:g} or more in both")
    return pd.concat(found, ignore_index=True)


def _dealt(count: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator)


def _list(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()
