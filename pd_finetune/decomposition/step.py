"""The loss of one training step, in the merged (current) and the separate (paper) form."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.losses import (
    FrequencyPenalty,
    Kernels,
    faithfulness,
    masks_and_p_norm,
    masks_and_smooth_l0,
    p_norm_means,
    p_norm_minimality,
    smooth_l0_means,
)
from pd_finetune.decomposition.noise import RowNoise
from pd_finetune.decomposition.reconstruction import Reconstruction
from pd_finetune.decomposition.sigmoids import lower_leaky
from pd_finetune.decomposition.sources import PersistentSources
from pd_finetune.distributed import Workers
from pd_finetune.stage_configs import RecipeConfig
from pd_finetune.targets.readout import Readout


def annealed(start: float, end: float, progress: float, fraction: float) -> float:
    """Linear from `start` to `end` over the first `fraction` of the training, then constant."""
    return start + (end - start) * min(1.0, progress / fraction)


@dataclass
class StepLoss:
    """Total loss with its graph, its terms as numbers, and the leaf whose gradient climbs."""

    total: Float[Tensor, ""]
    terms: dict[str, float] = field(default_factory=dict)
    sources: Float[Tensor, "rows *rest"] | None = None


@dataclass
class StepMaker:
    """Makes the loss of a step from a batch; holds what all steps share."""

    model: nn.Module
    readout: Readout
    components: Subcomponents
    ci_function: CIFunction
    sources: PersistentSources | None
    frequency: FrequencyPenalty
    recipe: RecipeConfig
    kernels: Kernels
    precision: str
    workers: Workers = field(default_factory=Workers)

    def loss(self, batch: Tensor, step: int, noise: RowNoise) -> StepLoss:
        """Reconstruction + minimality + frequency + faithfulness of this process's rows.

        Averaged over the workers, its value and its gradients are those of the global batch.
        """
        recipe = self.recipe
        progress = step / recipe.steps
        recon = Reconstruction(
            self.model, self.components, self.ci_function, batch, self.precision, self.readout
        )
        x = recon.pre_sigmoid()
        form = self._merged if recipe.recon == "merged" else self._separate
        result, own = form(recon, x, progress, noise)
        # minimality is no mean over tokens: its value and slope are taken at the global batch's
        # means, its gradient flows through this process's part
        means = own + (self.workers.mean(own) - own.detach())
        if recipe.minimality == "smooth_l0":
            minimality = recipe.minimality_coefficient * means.sum()
            frequency = recipe.frequency_coefficient * self.frequency(means)
        else:
            minimality = recipe.minimality_coefficient * p_norm_minimality(
                means, recon.positions * self.workers.size, recipe.beta
            )
            frequency = torch.zeros_like(minimality)
        result.total = result.total + minimality + frequency
        if step % recipe.faithfulness_every == 0:
            # every few steps, weighted up by as much (it is near 0 from the start, so this is
            # cheap; on those steps it takes a larger part of the clipped gradient)
            term = faithfulness(self.components, self.model, recipe.faithfulness)
            weight = recipe.faithfulness_coefficient * recipe.faithfulness_every
            result.total = result.total + weight * term
            result.terms["faithfulness"] = term.item()
        result.terms["minimality"] = minimality.item()
        result.terms["frequency"] = frequency.item()
        result.terms["ci_l0"] = (x.detach() > 0).sum().item() / recon.positions
        return result

    def _masks(
        self, x: Tensor, r: Tensor, progress: float
    ) -> tuple[Float[Tensor, "rows pos C"], Float[Tensor, " C"]]:
        recipe = self.recipe
        if recipe.minimality == "p_norm":
            return masks_and_p_norm(x, r, annealed(recipe.p_start, recipe.p_end, progress, 1.0))
        gamma = annealed(recipe.gamma_start, recipe.gamma_end, progress, recipe.anneal_fraction)
        return masks_and_smooth_l0(x, r, torch.tensor(gamma, device=x.device), self.kernels)

    def _means(self, x: Tensor, progress: float) -> Float[Tensor, " C"]:
        recipe = self.recipe
        if recipe.minimality == "p_norm":
            return p_norm_means(x, annealed(recipe.p_start, recipe.p_end, progress, 1.0))
        return smooth_l0_means(
            x, annealed(recipe.gamma_start, recipe.gamma_end, progress, recipe.anneal_fraction)
        )

    def _merged(
        self, recon: Reconstruction, x: Tensor, progress: float, noise: RowNoise
    ) -> tuple[StepLoss, Tensor]:
        """One masked forward: the first half of the rows adversarial on all sites, the other
        stochastic and routed. Rows are drawn anew each step, so a fixed half is a random half."""
        rows, length, C = x.shape
        sites = len(self.components.sites)
        hostile = 0 if self.sources is None else rows // 2
        random = slice(hostile, rows)
        r = noise.sources(random, length, C + sites)
        route = noise.routes(random, length, sites)
        leaf = None
        if self.sources is not None:
            leaf = self.sources.leaf()
            r = torch.cat([_over_positions(leaf, length), r])
            route = torch.cat([torch.ones_like(route), route])
        mask, means = self._masks(x, r[..., :C], progress)
        divergence = recon.divergence(mask, r[..., C:], route)
        name = self.readout.term
        terms = {f"stochastic_{name}": divergence[hostile:].mean().item()}
        if hostile:
            terms[f"adversarial_{name}"] = divergence[:hostile].mean().item()
        return StepLoss(divergence.mean(), terms, leaf), means

    def _separate(
        self, recon: Reconstruction, x: Tensor, progress: float, noise: RowNoise
    ) -> tuple[StepLoss, Tensor]:
        """The paper's form: a stochastic and an adversarial pass, each of weight one half."""
        rows, length, C = x.shape
        sites = len(self.components.sites)
        r = noise.sources(slice(rows), length, C + sites)
        route = noise.routes(slice(rows), length, sites)
        # one reading for all passes: the sigmoid's backward clamps the sum of their gradients
        g = lower_leaky(x)
        means = self._means(x, progress)
        stochastic = recon.divergence(g + (1 - g) * r[..., :C], r[..., C:], route).mean()
        terms = {f"stochastic_{self.readout.term}": stochastic.item()}
        if self.sources is None:
            return StepLoss(stochastic, terms), means
        for _ in range(self.recipe.adversary_extra_climbs):
            leaf = self.sources.leaf()
            r = _over_positions(leaf, length)
            mask = g.detach() + (1 - g.detach()) * r[..., :C]
            # one half, as the last climb's gradient comes from the weighted loss
            climbed = 0.5 * recon.divergence(mask, r[..., C:]).mean()
            (gradient,) = torch.autograd.grad(climbed, leaf)
            self.sources.climb(gradient / self.workers.size)
        leaf = self.sources.leaf()
        r = _over_positions(leaf, length)
        adversarial = recon.divergence(g + (1 - g) * r[..., :C], r[..., C:]).mean()
        terms[f"adversarial_{self.readout.term}"] = adversarial.item()
        return StepLoss(0.5 * stochastic + 0.5 * adversarial, terms, leaf), means


def _over_positions(values: Tensor, length: int) -> Float[Tensor, "rows pos any"]:
    return values if values.ndim == 3 else values[:, None].expand(-1, length, -1)
