"""One VPD training step as the paper describes it, written plainly.

Delta is materialised, the stochastic and the adversarial reconstruction are separate masked
forwards, the sources have an entry per position and climb twice more each step, the KL takes full
logits, and whatever is not a matrix product runs in float32. Nothing is made slow on purpose:
Delta is made once a step for all passes, the loss's own backward gives the last climb, and q, k
and v feed the causal-importance function once. That function is a copy of the package's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.config import RecipeConfig
from pd_finetune.decomposition.sites import module_at
from pd_finetune.decomposition.trainer import Trainer
from pd_finetune.runtime import autocast

Draws = dict[str, Tensor]  # by site


class LowerLeaky(torch.autograd.Function):
    """clamp(x, 0, 1); below 0 the gradient passes, times 0.01, only where descent raises x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0.0, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        below = torch.where(grad < 0, 0.01 * grad, torch.zeros_like(grad))
        return torch.where(x <= 0, below, torch.where(x <= 1, grad, torch.zeros_like(grad)))


def upper_leaky(x: Tensor) -> Tensor:
    """clamp(x, 0, 1) with slope 0.01 above 1."""
    return torch.where(x > 1, 1 + 0.01 * (x - 1), x.clamp(0.0, 1.0))


def draw(
    V: dict[str, Float[Tensor, "d_in C"]], ids: Int[Tensor, "rows pos"]
) -> tuple[Draws, Draws]:
    """r ~ U(0, 1) by site, [rows, pos, C + 1] (the last is Delta's mask), and where each site is
    routed, [rows, pos]: at every position a random k of the sites, k ~ U{1..sites}."""
    device = ids.device
    r = {name: torch.rand(*ids.shape, v.shape[1] + 1, device=device) for name, v in V.items()}
    k = torch.randint(1, len(V) + 1, (*ids.shape, 1), device=device)
    chosen = torch.rand(*ids.shape, len(V), device=device).argsort(-1).argsort(-1) < k
    return r, dict(zip(V, chosen.unbind(-1), strict=True))


@dataclass
class Sources:
    """Persistent sources of one site, [rows, pos, C + 1] (the last is Delta's), and their Adam."""

    values: Float[Tensor, "rows pos C1"]
    first: Float[Tensor, "rows pos C1"]
    second: Float[Tensor, "rows pos C1"]

    @torch.no_grad()
    def climb(self, gradient: Tensor, count: int, lr: float, betas: list[float]) -> None:
        self.first = betas[0] * self.first + (1 - betas[0]) * gradient
        self.second = betas[1] * self.second + (1 - betas[1]) * gradient**2
        first = self.first / (1 - betas[0] ** count)
        second = self.second / (1 - betas[1] ** count)
        self.values = (self.values + lr * first / (second.sqrt() + 1e-12)).clamp(0.0, 1.0)


@dataclass
class Replacement:
    """How one matrix is replaced in a masked forward: x V * mask U + delta_mask * x Delta^T."""

    V: Float[Tensor, "d_in C"]
    U: Float[Tensor, "C d_out"]
    delta: Float[Tensor, "d_out d_in"]
    mask: Float[Tensor, "rows pos C"]
    delta_mask: Float[Tensor, "rows pos"]
    route: Bool[Tensor, "rows pos"] | None = None  # where it is replaced; None: everywhere

    def output(self, x: Tensor, target_output: Tensor) -> Float[Tensor, "rows pos d_out"]:
        out = ((x @ self.V) * self.mask) @ self.U
        out = out + self.delta_mask[..., None] * F.linear(x, self.delta)
        return out if self.route is None else torch.where(self.route[..., None], out, target_output)


@contextmanager
def replaced(modules: dict[str, nn.Linear], how: dict[str, Replacement]) -> Iterator[None]:
    """Within the context, forwards of the target run with the named matrices replaced."""
    handles = [
        modules[name].register_forward_hook(
            lambda _module, args, output, how=replacement: how.output(args[0], output)
        )
        for name, replacement in how.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recorded(modules: dict[str, nn.Linear]) -> Iterator[dict[str, Tensor]]:
    """Collects what each of the matrices reads while the context's forward runs."""
    inputs: dict[str, Tensor] = {}
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
        for name, module in modules.items()
    ]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def minimality(upper: Draws, p: float, beta: float) -> Float[Tensor, ""]:
    """Sum over subcomponents of mean_t g^p (1 + beta log2(1 + sum_t g^p))."""
    terms = []
    for g in upper.values():
        powers = (g + 1e-12).pow(p)
        mean, total = powers.mean((0, 1)), powers.sum((0, 1))
        terms.append((mean * (1 + beta * torch.log2(1 + total))).sum())
    return torch.stack(terms).sum()


@dataclass
class ReferenceStep:
    """Everything the reference carries from step to step.

    Args:
        model: the frozen target.
        modules: its decomposed matrices by site, in the order of the causal-importance head.
        recipe: coefficients and schedules, as the package reads them.
        precision: see `runtime.autocast`.
    """

    model: nn.Module
    modules: dict[str, nn.Linear]
    V: dict[str, Float[Tensor, "d_in C"]]
    U: dict[str, Float[Tensor, "C d_out"]]
    ci_function: CIFunction
    sources: dict[str, Sources]
    recipe: RecipeConfig
    precision: str
    climbs: int = 0

    def __post_init__(self) -> None:
        vectors = [*self.V.values(), *self.U.values()]
        parameters = [*vectors, *self.ci_function.parameters()]
        self.optimiser = torch.optim.AdamW(parameters, lr=self.recipe.lr, weight_decay=0.0)

    def logits(self, ids: Int[Tensor, "rows pos"]) -> Float[Tensor, "rows pos vocab"]:
        model: Any = self.model
        with autocast(ids.device, self.precision):
            logits: Tensor = model(input_ids=ids, use_cache=False).logits
        return logits.float()

    def clean(self, ids: Int[Tensor, "rows pos"]) -> tuple[Tensor, dict[str, Tensor]]:
        """The target's logits, and each site's input."""
        with torch.no_grad(), recorded(self.modules) as inputs:
            return self.logits(ids), inputs

    def causal_importances(self, inputs: dict[str, Tensor]) -> tuple[Draws, Draws]:
        """Lower-leaky and upper-leaky readings by site, [rows, pos, C]."""
        with autocast(next(iter(inputs.values())).device, self.precision):
            x = self.ci_function(inputs).float()
        widths = [v.shape[1] for v in self.V.values()]
        parts = dict(zip(self.modules, x.split(widths, -1), strict=True))
        lower = {name: LowerLeaky.apply(part) for name, part in parts.items()}
        return lower, {name: upper_leaky(part) for name, part in parts.items()}

    def deltas(self) -> dict[str, Float[Tensor, "d_out d_in"]]:
        """Delta = W - (V U)^T of every site."""
        return {
            name: module.weight - (self.V[name] @ self.U[name]).T
            for name, module in self.modules.items()
        }

    def reconstruction(
        self,
        ids: Int[Tensor, "rows pos"],
        clean: Float[Tensor, "rows pos vocab"],
        ci: Draws,
        r: Draws,
        deltas: Draws,
        routes: dict[str, Bool[Tensor, "rows pos"]] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean over positions of KL(clean || masked); masks g + (1 - g) r, r [rows, pos, C + 1]."""
        how = {
            name: Replacement(
                V=self.V[name],
                U=self.U[name],
                delta=deltas[name],
                mask=ci[name] + (1 - ci[name]) * r[name][..., :-1],
                delta_mask=r[name][..., -1],
                route=None if routes is None else routes[name],
            )
            for name in self.modules
        }
        with replaced(self.modules, how):
            masked = self.logits(ids)
        log_p, log_q = clean.log_softmax(-1), masked.log_softmax(-1)
        return F.kl_div(log_q, log_p, reduction="sum", log_target=True) / ids.numel()

    def losses(
        self, ids: Int[Tensor, "rows pos"], progress: float, r: Draws, routes: Draws
    ) -> tuple[dict[str, Float[Tensor, ""]], Draws]:
        """The step's four terms, unweighted, and the sources as leaves; climbs on the way."""
        recipe = self.recipe
        clean, inputs = self.clean(ids)
        ci, upper = self.causal_importances(inputs)
        deltas = self.deltas()
        stochastic = self.reconstruction(ids, clean, ci, r, deltas, routes)
        fixed_ci = {name: g.detach() for name, g in ci.items()}
        fixed_deltas = {name: delta.detach() for name, delta in deltas.items()}
        for _ in range(recipe.adversary_extra_climbs):
            leaves = self.leaves()
            kl = self.reconstruction(ids, clean, fixed_ci, leaves, fixed_deltas)
            gradients = torch.autograd.grad(kl, list(leaves.values()))
            self.climb(dict(zip(leaves, gradients, strict=True)))
        leaves = self.leaves()
        p = recipe.p_start + (recipe.p_end - recipe.p_start) * progress
        squares = [delta.square().sum() for delta in deltas.values()]
        entries = sum(module.weight.numel() for module in self.modules.values())
        return {
            "stochastic_kl_nats": stochastic,
            "adversarial_kl_nats": self.reconstruction(ids, clean, ci, leaves, deltas),
            "minimality": minimality(upper, p, recipe.beta),
            "faithfulness": torch.stack(squares).sum() / entries,
        }, leaves

    def leaves(self) -> Draws:
        return {name: s.values.detach().requires_grad_(True) for name, s in self.sources.items()}

    def climb(self, gradients: Draws) -> None:
        self.climbs += 1
        for name, gradient in gradients.items():
            self.sources[name].climb(
                gradient, self.climbs, self.recipe.adversary_lr, self.recipe.adversary_betas
            )

    def total(self, terms: dict[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        return (
            0.5 * terms["stochastic_kl_nats"]
            + 0.5 * terms["adversarial_kl_nats"]
            + self.recipe.minimality_coefficient * terms["minimality"]
            + self.recipe.faithfulness_coefficient * terms["faithfulness"]
        )

    def train_step(self, ids: Int[Tensor, "rows pos"], progress: float, lr: float) -> None:
        """One optimiser step of V, U and the CI function; the sources climb on its backward."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        terms, leaves = self.losses(ids, progress, *draw(self.V, ids))
        self.total(terms).backward()
        torch.nn.utils.clip_grad_norm_([*self.V.values(), *self.U.values()], self.recipe.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.climb({name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None})


def by_site(trainer: Trainer, values: Float[Tensor, "*any C_and_sites"]) -> Draws:
    """Values of all subcomponents and Deltas, as the package lays them out, [*any, C + 1] each."""
    order, widths = trainer.ci_function.order, trainer.ci_function.C
    *parts, deltas = values.split([*widths, len(order)], -1)
    return {n: torch.cat((parts[i], deltas[..., i : i + 1]), -1) for i, n in enumerate(order)}


def reference_of(trainer: Trainer) -> ReferenceStep:
    """The reference with copies of the weights and sources of a trainer (recipe `paper`)."""
    components, ci = trainer.components, trainer.ci_function
    sources = trainer.maker.sources
    assert sources is not None and sources.values.ndim == 3, "a source per position"
    values, zeros = by_site(trainer, sources.values), torch.zeros_like
    modules = {n: module_at(trainer.target.model, components.sites[n]) for n in ci.order}
    return ReferenceStep(
        model=trainer.target.model,
        modules=cast("dict[str, nn.Linear]", modules),
        V={n: components.V(n).detach().clone().requires_grad_(True) for n in ci.order},
        U={n: components.U(n).detach().clone().requires_grad_(True) for n in ci.order},
        ci_function=deepcopy(ci),
        sources={n: Sources(v, zeros(v), zeros(v)) for n, v in values.items()},
        recipe=trainer.config.recipe,
        precision=trainer.config.precision,
    )
