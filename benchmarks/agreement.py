"""Whether the package's step and the reference compute the same numbers on the same draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.sizes import reference_of
from pd_finetune.decomposition.noise import RowNoise, fractions

if TYPE_CHECKING:
    from benchmarks.reference_step import ReferenceStep
    from pd_finetune.decomposition.trainer import Trainer

TERMS = ("stochastic_kl_nats", "adversarial_kl_nats", "minimality", "faithfulness")
SEED = 11


def noise_of(ids: Tensor) -> RowNoise:
    """The noise of a step of `SEED` on a batch [rows, pos]."""
    return RowNoise(SEED, 0, range(len(ids)), ids.device)


def same_draws(trainer: Trainer, ids: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The r and routes of the package's step, by site."""
    order, widths = trainer.ci_function.order, trainer.ci_function.C
    noise = noise_of(ids)
    r = fractions(noise.sources(slice(None), ids.shape[1], sum(widths) + len(order)), torch.float32)
    route = noise.routes(slice(None), ids.shape[1], len(order))
    parts = r.split([*widths, len(order)], -1)
    by_site = {
        name: torch.cat((parts[i], parts[-1][..., i : i + 1]), -1) for i, name in enumerate(order)
    }
    return by_site, dict(zip(order, route.unbind(-1), strict=True))


def package_step(trainer: Trainer, ids: Tensor) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Unweighted terms of the package's loss, and the gradients of their weighted sum by name."""
    recipe, ci = trainer.config.recipe, trainer.ci_function
    result = trainer.maker.loss(ids, trainer.step, noise_of(ids))
    result.total.backward()
    assert result.sources is not None and result.sources.grad is not None
    terms = {name: result.terms[name] for name in TERMS}
    terms["minimality"] /= recipe.minimality_coefficient  # reported as weighted
    gradients = {f"ci_function.{n}": gradient_of(p) for n, p in ci.named_parameters()}
    parts = result.sources.grad.split([*ci.C, len(ci.order)], -1)
    for i, name in enumerate(ci.order):
        gradients[f"V.{name}"] = gradient_of(trainer.components.V(name))
        gradients[f"U.{name}"] = gradient_of(trainer.components.U(name))
        gradients[f"sources.{name}"] = torch.cat((parts[i], parts[-1][..., i : i + 1]), -1)
    return terms, gradients


def reference_step(
    reference: ReferenceStep, ids: Tensor, progress: float, draws: tuple[dict[str, Tensor], ...]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The same of the reference."""
    terms, leaves = reference.losses(ids, progress, *draws)
    reference.total(terms).backward()
    named = reference.ci_function.named_parameters()
    gradients = {f"ci_function.{n}": gradient_of(p) for n, p in named}
    for name, leaf in leaves.items():
        gradients[f"V.{name}"] = gradient_of(reference.V[name])
        gradients[f"U.{name}"] = gradient_of(reference.U[name])
        gradients[f"sources.{name}"] = gradient_of(leaf)
    return {name: term.item() for name, term in terms.items()}, gradients


def gradient_of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def agreement(trainer: Trainer, reference: ReferenceStep | None = None) -> dict[str, float]:
    """Relative difference of each term, and of the gradients of each kind of parameter.

    A gradient's is ||package - reference|| / ||reference|| over all parameters of the kind. Nothing
    is trained, but persistent sources make their extra climbs in both.

    Args:
        trainer: with recipe `paper`.
        reference: `reference_of(trainer)`, where it is needed afterwards.
    """
    ids = trainer.batch_at(trainer.step).to(trainer.target.device)
    reference = reference or reference_of(trainer)
    draws = same_draws(trainer, ids)
    progress = trainer.step / trainer.config.recipe.steps
    expected, slopes = reference_step(reference, ids, progress, draws)
    actual, own = package_step(trainer, ids)
    found = {n: abs(actual[n] - expected[n]) / max(abs(expected[n]), 1e-12) for n in TERMS}
    for kind in ("V", "U", "ci_function", "sources"):
        names = [name for name in slopes if name.startswith(f"{kind}.")]
        wrong = sum(float((own[n].double() - slopes[n].double()).square().sum()) for n in names)
        size = sum(float(slopes[n].double().square().sum()) for n in names)
        found[f"gradient_{kind}"] = (wrong / max(size, 1e-300)) ** 0.5
    return found
