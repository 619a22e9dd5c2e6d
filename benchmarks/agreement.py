"""Whether the package's step and the reference compute the same numbers on the same draws."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.reference import Draws, ReferenceStep, by_site, reference_of
from pd_finetune.decomposition.noise import RowNoise, fractions
from pd_finetune.decomposition.trainer import Trainer

TERMS = ("stochastic_kl_nats", "adversarial_kl_nats", "minimality", "faithfulness")
SEED = 11
Slopes = dict[str, Tensor]  # gradients by kind and name of the parameter


def noise_of(ids: Tensor) -> RowNoise:
    """The noise of a step of `SEED` on a batch [rows, pos]."""
    return RowNoise(SEED, 0, range(len(ids)), ids.device)


def same_draws(trainer: Trainer, ids: Tensor) -> tuple[Draws, Draws]:
    """The r and routes of the package's step, by site."""
    order, noise = trainer.ci_function.order, noise_of(ids)
    width = sum(trainer.ci_function.C) + len(order)
    r = fractions(noise.sources(slice(None), ids.shape[1], width), torch.float32)
    route = noise.routes(slice(None), ids.shape[1], len(order))
    return by_site(trainer, r), dict(zip(order, route.unbind(-1), strict=True))


def slopes_of(
    V: dict[str, Tensor], U: dict[str, Tensor], ci: torch.nn.Module, sources: Draws
) -> Slopes:
    """All gradients; `sources` are gradients already."""
    named = {f"ci_function.{n}": p.grad for n, p in ci.named_parameters()}
    named |= {f"V.{n}": v.grad for n, v in V.items()} | {f"U.{n}": u.grad for n, u in U.items()}
    assert all(gradient is not None for gradient in named.values())
    found = {name: gradient for name, gradient in named.items() if gradient is not None}
    return found | {f"sources.{n}": gradient for n, gradient in sources.items()}


def package_step(trainer: Trainer, ids: Tensor) -> tuple[dict[str, float], Slopes]:
    """Unweighted terms of the package's loss, and the gradients of their weighted sum by name."""
    components, ci = trainer.components, trainer.ci_function
    result = trainer.maker.loss(ids, trainer.step, noise_of(ids))
    result.total.backward()
    assert result.sources is not None and result.sources.grad is not None
    terms = {name: result.terms[name] for name in TERMS}
    terms["minimality"] /= trainer.config.recipe.minimality_coefficient  # reported as weighted
    V, U = ({n: of(n) for n in ci.order} for of in (components.V, components.U))
    return terms, slopes_of(V, U, ci, by_site(trainer, result.sources.grad))


def reference_step(
    reference: ReferenceStep, ids: Tensor, progress: float, draws: tuple[Draws, Draws]
) -> tuple[dict[str, float], Slopes]:
    """The same of the reference."""
    terms, leaves = reference.losses(ids, progress, *draws)
    reference.total(terms).backward()
    sources = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    slopes = slopes_of(reference.V, reference.U, reference.ci_function, sources)
    return {name: term.item() for name, term in terms.items()}, slopes


def agreement(trainer: Trainer, reference: ReferenceStep | None = None) -> dict[str, float]:
    """Relative difference of each term, and of the gradients of each kind of parameter.

    A gradient's is ||package - reference|| / ||reference|| over all parameters of the kind. Nothing
    is trained, but persistent sources make their extra climbs in both.

    Args:
        trainer: with recipe `paper`.
        reference: `reference_of(trainer)`, where it is needed afterwards.
    """
    ids = trainer.batch_at(trainer.step).to(trainer.target.device)
    progress = trainer.step / trainer.config.recipe.steps
    reference = reference or reference_of(trainer)
    expected, slopes = reference_step(reference, ids, progress, same_draws(trainer, ids))
    actual, own = package_step(trainer, ids)
    found = {n: abs(actual[n] - expected[n]) / max(abs(expected[n]), 1e-12) for n in TERMS}
    for kind in ("V", "U", "ci_function", "sources"):
        names = [name for name in slopes if name.startswith(f"{kind}.")]
        wrong = sum(float((own[n].double() - slopes[n].double()).square().sum()) for n in names)
        size = sum(float(slopes[n].double().square().sum()) for n in names)
        found[f"gradient_{kind}"] = (wrong / max(size, 1e-300)) ** 0.5
    return found
