"""Do two decompositions of the same target find the same subcomponents?"""

from __future__ import annotations

from collections.abc import Mapping

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
        # the mean of equal numbers is rounded, so that their deviations are not quite 0
        varies = values.amax(0) > values.amin(0)
        parts.append(centred / torch.where(varies, centred.norm(dim=0), torch.inf))
    return parts[0].T @ parts[1]


@torch.no_grad()
def matches(
    components: Subcomponents,
    mean_ci: Mapping[str, Float[Tensor, " C"]],
    other: Subcomponents,
    other_mean_ci: Mapping[str, Float[Tensor, " D"]],
    least_mean_ci: float,
    ci: Mapping[str, Float[Tensor, "tokens C"]] | None = None,
    other_ci: Mapping[str, Float[Tensor, "tokens D"]] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Each subcomponent's best match at the same site of the other decomposition.

    Args:
        mean_ci, other_mean_ci: mean causal importance by site.
        least_mean_ci: those of a lower mean CI stand on neither side.
        ci, other_ci: causal importances by site on the same tokens; None: no correlations (NaN).

    Returns:
        A row per subcomponent: `site`, `index`, `mean_ci`; `match`, the index of highest cosine,
        its `cosine`, `mutual` (whether it is the match of its match), `correlation` of the two's
        CI; `best_correlation` and `best_correlation_match` over all of the site (-1: not known);
        `control_cosine`, the mean highest cosine when the other's U are dealt to its V at random.
        Where the other has nothing at the site, `match` is -1 and cosines and correlations are 0
        (correlations NaN where they are NaN everywhere);
        where it has one, there is no other U to deal, and `control_cosine` is NaN.

    Raises:
        UserError: the two have different sites, or there is nothing of that mean CI.
    """
    if set(components.sites) != set(other.sites):
        raise UserError(
            f"decompositions of different sites cannot be matched: {', '.join(components.sites)} "
            f"and {', '.join(other.sites)}"
        )
    generator = torch.Generator().manual_seed(seed)
    found = []
    for site in components.sites:
        mean, other_mean = mean_ci[site], other_mean_ci[site]
        own = (mean >= least_mean_ci).nonzero()[:, 0]
        others = (other_mean >= least_mean_ci).nonzero()[:, 0]
        if len(own) == 0:
            continue
        nothing, nowhere = torch.zeros(len(own)), torch.full((len(own),), -1)
        correlation = nothing * (torch.nan if ci is None or other_ci is None else 1)
        columns = {"index": own, "mean_ci": mean[own], "match": nowhere, "cosine": nothing}
        columns |= {"mutual": nothing.bool(), "correlation": correlation}
        columns |= {"best_correlation": correlation, "best_correlation_match": nowhere}
        columns["control_cosine"] = nothing
        if len(others):
            columns |= _matched(
                (components.V(site)[:, own], components.U(site)[own]),
                None if ci is None else ci[site][:, own],
                (other.V(site)[:, others], other.U(site)[others]),
                None if other_ci is None else other_ci[site][:, others],
                others,
                generator,
            )
        values = {name: column.cpu().numpy() for name, column in columns.items()}
        found.append(pd.DataFrame({"site": site, **values}))
    if not found:
        raise UserError(f"no subcomponent has a mean CI of {least_mean_ci:g} or more")
    return pd.concat(found, ignore_index=True)


def _matched(
    own: tuple[Tensor, Tensor],
    ci: Float[Tensor, "tokens C"] | None,
    other: tuple[Tensor, Tensor],
    other_ci: Float[Tensor, "tokens D"] | None,
    indices: Tensor,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The columns of one site; `indices` are the other's own numbers of its D subcomponents."""
    cosine = cosines(*own, *other)
    best, match = cosine.max(1)
    if ci is None or other_ci is None:
        nothing = torch.full_like(best, torch.nan)
        correlation, most, most_match = nothing, nothing, torch.full_like(match, -1)
    else:
        between = correlations(ci, other_ci)
        correlation = between.gather(1, match[:, None])[:, 0]
        most, most_match = between.max(1)
        most_match = indices[most_match]
    V, U = other
    dealt = [cosines(*own, V, U[_dealt(len(indices), generator)]).amax(1) for _ in range(_CONTROLS)]
    control = torch.stack(dealt).mean(0)
    return {
        "match": indices[match],
        "cosine": best,
        "mutual": cosine.argmax(0)[match] == torch.arange(len(best), device=match.device),
        "correlation": correlation,
        "best_correlation": most,
        "best_correlation_match": most_match,
        "control_cosine": control if len(indices) > 1 else torch.full_like(control, torch.nan),
    }


def _dealt(count: int, generator: torch.Generator) -> Tensor:
    """A random cycle: each gets another's."""
    order = torch.randperm(count, generator=generator)
    dealt = torch.empty_like(order)
    dealt[order] = order.roll(1)
    return dealt
