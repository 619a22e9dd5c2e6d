"""A first V and U from what flows through a matrix: whitened PCA, ICA, neurons. Exact fits to W.

A random frame spreads every mechanism over all subcomponents, and training gathers it slowly.
Which start a site gets is decided by its shape alone, the same for any model:

- C is the larger of d_in and d_out: that side is taken for hidden neurons, one subcomponent each
  (n-th column of W where they are read, n-th row where they are written);
- C is the smaller (or both are equal): the principal or independent components of what passes on
  that side (of the input where both are equal).

With whitening A [d, d] and its inverse B, V = A and U = B W^T on the input side, V = W^T A and
U = B on the output side: V U = W^T, whatever A. The sources x A are uncorrelated with variance 1,
so the variances of the subcomponents' outputs add up to that of W x: nothing large cancels, in
bfloat16 and under random masks likewise.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pd_finetune.decomposition.components import recorded_inputs, shared_inputs
from pd_finetune.decomposition.sites import Site
from pd_finetune.errors import UserError
from pd_finetune.targets.readout import Decomposable

DATA_STARTS = ("pca", "ica")
_RIDGE = 1e-2  # of the mean variance: a direction of none is not blown up more than tenfold
_ICA_ITERATIONS = 100  # near-Gaussian directions never settle; the others have by then


@dataclass(frozen=True)
class SiteInputs:
    """What sites read on the first batches of a training (its own text, without labels).

    Args:
        batch_at: the batch of a step, as the training sees it.
        tokens: so many positions at least; all are held at once, in float32, for every input.
    """

    target: Decomposable
    batch_at: Callable[[int], Tensor]
    tokens: int

    @torch.no_grad()
    def of(self, sites: dict[str, Site]) -> dict[str, Float[Tensor, "tokens d_in"]]:
        """Inputs by site, on the CPU; sites that read one tensor share one."""
        model, readout = self.target.model, self.target.readout
        first = shared_inputs(model, sites, readout.example(), readout)
        found: dict[str, list[Tensor]] = {name: [] for name in set(first.values())}
        step = seen = 0
        while seen < self.tokens:
            batch = self.batch_at(step).to(self.target.device)
            with recorded_inputs(model, sites, set(found)) as inputs:
                readout.output(batch)
            for name, x in inputs.items():
                found[name].append(x.flatten(0, -2).float().cpu())
            step, seen = step + 1, seen + batch.shape[0] * batch.shape[1]
        joined = {name: torch.cat(parts) for name, parts in found.items()}
        return {name: joined[first[name]] for name in sites}


def is_by_neuron(site: Site) -> bool:
    """Whether each subcomponent is one unit of the site's wider side."""
    return site.d_in != site.d_out and max(site.d_in, site.d_out) == site.C


def check_sizes(sites: dict[str, Site], initial: str) -> None:
    """Whether a start from data has as many subcomponents at every site as the sites ask for.

    Raises:
        UserError: C is neither d_in nor d_out.
    """
    for site in sites.values():
        if site.C not in (site.d_in, site.d_out):
            possible = " or ".join(str(d) for d in sorted({site.d_in, site.d_out}))
            raise UserError(
                f"{site.name} has C={site.C}, initial={initial} makes {possible} subcomponents of "
                f"it: set C so in sites, or give initial=row_space"
            )


def components_of(
    x: Float[Tensor, "tokens d"], kind: str, seed: int
) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    """A whose columns read the whitened components of x, and its inverse; float64.

    `pca`: A = E (lambda + ridge)^-1/2 of the covariance's eigenvectors. `ica`: this times the
    rotation that FastICA (logcosh; Hyvarinen 1999) finds from a start drawn by `seed`.
    """
    x = x.double()
    centred = x - x.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    scale = (values.clamp(min=0) + _RIDGE * values.mean().clamp(min=1e-30)).sqrt()
    A, B = vectors / scale, scale[:, None] * vectors.T
    if kind == "pca":
        return A, B
    R = _independent(centred @ A, seed)
    return A @ R.T, R @ B


def _independent(z: Float[Tensor, "tokens d"], seed: int) -> Float[Tensor, "d d"]:
    """The rotation whose rows read independent components of whitened z; float64."""
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    ica = FastICA(
        whiten=False, fun="logcosh", max_iter=_ICA_ITERATIONS, tol=1e-3, random_state=seed
    )
    with warnings.catch_warnings(), threadpool_limits(torch.get_num_threads()):
        warnings.simplefilter("ignore", ConvergenceWarning)
        ica.fit(z.float().numpy())
    left, _, right = torch.linalg.svd(torch.from_numpy(ica.components_).double())
    return left @ right  # a rotation to float64's precision, so that its transpose inverts it


def fit_to_data(
    weight: Float[Tensor, "d_out d_in"],
    site: Site,
    components: Callable[[bool], tuple[Tensor, Tensor]],
) -> tuple[Float[Tensor, "d_in C"], Float[Tensor, "C d_out"]]:
    """V and U of one site, V U = W^T, each subcomponent's V and U of equal norm; float64.

    Adam moves entries of V and U by equal amounts, so neither factor should be the larger.

    Args:
        components: A and its inverse, of the site's input (True) or output (False); see above.
    """
    Wt = weight.double().T
    if is_by_neuron(site):
        eye = torch.eye(site.C, dtype=torch.float64)
        V, U = (eye, Wt) if site.d_in > site.d_out else (Wt, eye)
    elif site.d_in <= site.d_out:
        A, B = components(True)
        V, U = A, B @ Wt
    else:
        A, B = components(False)
        V, U = Wt @ A, B
    reads, writes = V.norm(dim=0), U.norm(dim=1)
    scale = torch.where((reads > 0) & (writes > 0), (writes / reads).sqrt(), 1.0)
    return V * scale, U / scale[:, None]


def fits_to_data(
    weights: dict[str, Float[Tensor, "d_out d_in"]],
    sites: dict[str, Site],
    inputs: SiteInputs,
    kind: str,
    seed: int,
) -> dict[str, tuple[Tensor, Tensor]]:
    """V [d_in, C] and U [C, d_out] of every site; the components of a shared input are found once.

    Raises:
        UserError: a site has a C that fits neither side.
    """
    check_sizes(sites, kind)
    asked = {name: site for name, site in sites.items() if not is_by_neuron(site)}
    x = inputs.of(asked) if asked else {}
    known: dict[int, tuple[Tensor, Tensor]] = {}
    fits = {}
    for name, site in sites.items():
        W = weights[name].detach().float().cpu()

        def components(of_input: bool, name: str = name, W: Tensor = W) -> tuple[Tensor, Tensor]:
            if not of_input:
                return components_of(x[name] @ W.T, kind, seed)
            if id(x[name]) not in known:
                known[id(x[name])] = components_of(x[name], kind, seed)
            return known[id(x[name])]

        fits[name] = fit_to_data(W, site, components)
    return fits
