"""One VPD training step as the paper describes it, written plainly.

Delta is materialised, the stochastic and the adversarial reconstruction are separate masked
forwards, the sources have an entry per position and climb twice more each step, the KL takes full
logits, and whatever is not a matrix product runs in float32. Nothing is made slow on purpose:
Delta is made once a step for all passes, the loss's own backward gives the last climb, and q, k
and v feed the causal-importance function once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from benchmarks.reference_ci import LowerLeaky, ReferenceCI, upper_leaky
from benchmarks.reference_masking import Draws, Replacement, Sources, draw, recorded, replaced
from pd_finetune.decomposition.config import RecipeConfig
from pd_finetune.runtime import autocast


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
        inputs: sites whose inputs feed the causal-importance function, in its order.
        recipe: coefficients and schedules, as the package reads them.
        precision: see `runtime.autocast`.
    """

    model: nn.Module
    modules: dict[str, nn.Linear]
    inputs: list[str]
    V: dict[str, Float[Tensor, "d_in C"]]
    U: dict[str, Float[Tensor, "C d_out"]]
    ci_function: ReferenceCI
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
        read = [inputs[name] for name in self.inputs]
        with autocast(read[0].device, self.precision):
            x = self.ci_function(read).float()
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
