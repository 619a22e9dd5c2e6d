"""The loss of one training step, in the merged (current) and the separate (paper) form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.config import RecipeConfig
from pd_finetune.decomposition.losses import (
    FrequencyPenalty,
    faithfulness,
    p_norm_minimality,
)
from pd_finetune.decomposition.micro_batch import MicroBatch
from pd_finetune.decomposition.noise import RowNoise
from pd_finetune.decomposition.readings import Kernels, Measure, readings
from pd_finetune.decomposition.reconstruction import Reconstruction
from pd_finetune.decomposition.sources import PersistentSources
from pd_finetune.distributed import Workers
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
class StepSlopes:
    """What is left of a step's loss when its backward is done; parameters hold their gradients."""

    loss: float
    terms: dict[str, float]
    sources: Float[Tensor, "rows *rest"] | None  # gradient by the adversary's sources


@dataclass(frozen=True)
class Share:
    """The rows that a loss is of, as a part of the global batch.

    Args:
        noise: theirs.
        sources: of those that are adversarial.
        parts: into how many micro-batches the process's rows are split.
        means: minimality's means over the global batch; None: to be had from the workers, as these
            are all rows of this process.
        first: whether what a step counts once (faithfulness, running frequencies) counts here.
    """

    noise: RowNoise
    sources: PersistentSources | None
    parts: int = 1
    means: Float[Tensor, " C"] | None = None
    first: bool = True


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
    recompute: bool = False  # activations of masked forwards, see `recompute`

    def warmth(self, progress: float) -> float:
        """The adversary's learning rate at this share of the training, as a fraction of its full
        one: it rises linearly, one step ahead so that the first step climbs as well."""
        fraction = self.recipe.adversary_warmup_fraction
        ahead = progress + 1 / self.recipe.steps
        return 1.0 if ahead >= fraction else ahead / fraction

    def loss(self, batch: Tensor, step: int, noise: RowNoise) -> StepLoss:
        """Reconstruction + minimality + frequency + faithfulness of this process's rows.

        Averaged over the workers, its value and its gradients are those of the global batch.
        """
        return self._loss(batch, step, Share(noise, self.sources))

    def backward(
        self, batch: Tensor, step: int, noise: RowNoise, parts: Sequence[MicroBatch]
    ) -> StepSlopes:
        """The same loss and its gradients, the activations of one of `parts` at a time."""
        if len(parts) == 1:
            result = self.loss(batch, step, noise)
            result.total.backward()
            return StepSlopes(result.total.item(), result.terms, _slope(result))
        # minimality's slope needs the means over all rows, hence a forward of each part beforehand
        own = torch.stack([self._means_alone(batch[part.rows], step) for part in parts]).mean(0)
        means, total = self.workers.mean(own), 0.0
        # one tensor, filled part by part: of a source per position it is as large as activations
        slopes = None if self.sources is None else torch.empty_like(self.sources.values)
        values: dict[str, list[float]] = {}
        for number, part in enumerate(parts):
            share = Share(
                noise=replace(noise, rows=[noise.rows[row] for row in part.rows]),
                sources=self.sources and self.sources.part(part.sources),
                parts=len(parts),
                means=means,
                first=number == 0,
            )
            result = self._loss(batch[part.rows], step, share)
            result.total.backward()
            total += result.total.item()
            for term, value in result.terms.items():
                values.setdefault(term, []).append(value)
            slope = _slope(result)
            if slopes is not None and slope is not None:
                slopes[part.sources] = slope
        if self.sources is not None and self.recipe.recon == "separate":
            self.sources.climbs += self.recipe.adversary_extra_climbs
        terms = {term: sum(some) / len(some) for term, some in values.items()}
        return StepSlopes(total, terms, slopes)

    def _reconstruction(self, batch: Tensor) -> Reconstruction:
        return Reconstruction(
            self.model,
            self.components,
            self.ci_function,
            batch,
            self.precision,
            self.readout,
            self.recompute,
        )

    @torch.no_grad()
    def _means_alone(self, batch: Tensor, step: int) -> Float[Tensor, " C"]:
        x = self._reconstruction(batch).pre_sigmoid()
        measure = self._measure(step / self.recipe.steps)
        return readings(x, self.ci_function.C, measure, self.kernels)[1]

    def _loss(self, batch: Tensor, step: int, share: Share) -> StepLoss:
        recipe = self.recipe
        progress = step / recipe.steps
        recon = self._reconstruction(batch)
        x = recon.pre_sigmoid()
        ci, own = readings(x, self.ci_function.C, self._measure(progress), self.kernels)
        form = self._merged if recipe.recon == "merged" else self._separate
        result = form(recon, ci, progress, share)
        # minimality is no mean over tokens: its value and slope are taken at the global batch's
        # means, its gradient flows through this part
        everywhere = self.workers.mean(own) if share.means is None else share.means
        means = own + (everywhere - own.detach())
        if recipe.minimality == "smooth_l0":
            minimality = recipe.minimality_coefficient * means.sum()
            frequency = recipe.frequency_coefficient * self.frequency(means, observe=share.first)
        else:
            minimality = recipe.minimality_coefficient * p_norm_minimality(
                means, recon.positions * share.parts * self.workers.size, recipe.beta
            )
            frequency = torch.zeros_like(minimality)
        result.total = (result.total + minimality + frequency) / share.parts
        if share.first and step % recipe.faithfulness_every == 0:
            # every few steps, weighted up by as much (it is near 0 from the start, so this is
            # cheap; on those steps it takes a larger part of the clipped gradient)
            term = faithfulness(self.components, self.model, recipe.faithfulness)
            weight = recipe.faithfulness_coefficient * recipe.faithfulness_every
            result.total = result.total + weight * term
            result.terms["faithfulness"] = term.item()
        result.terms["minimality"] = minimality.item()
        result.terms["frequency"] = frequency.item()
        important = sum(torch.count_nonzero(g.detach()).item() for g in ci)
        result.terms["ci_l0"] = important / recon.positions
        return result

    def _measure(self, progress: float) -> Measure:
        recipe = self.recipe
        if recipe.minimality == "p_norm":
            return Measure("p_norm", annealed(recipe.p_start, recipe.p_end, progress, 1.0))
        ends = recipe.gamma_start, recipe.gamma_end
        return Measure("smooth_l0", annealed(*ends, progress, recipe.anneal_fraction))

    def _merged(
        self, recon: Reconstruction, ci: list[Tensor], progress: float, share: Share
    ) -> StepLoss:
        """One masked forward: the first half of the rows adversarial on all sites, the other
        stochastic and routed. Rows are drawn anew each step, so a fixed half is a random half."""
        rows, length = ci[0].shape[:2]
        hostile = 0 if share.sources is None else rows // 2
        noise, route = self._draws(share, slice(hostile, rows), length)
        leaf = None
        if share.sources is not None:
            leaf = share.sources.leaf()
            route = torch.cat([torch.ones_like(route), route])
        divergence = recon.divergence_from_sources(
            ci, _over_positions(leaf), noise, self.kernels, route
        )
        name = self.readout.term
        terms = {f"stochastic_{name}": divergence[hostile:].mean().item()}
        if hostile:
            terms[f"adversarial_{name}"] = divergence[:hostile].mean().item()
        return StepLoss(divergence.mean(), terms, leaf)

    def _separate(
        self, recon: Reconstruction, ci: list[Tensor], progress: float, share: Share
    ) -> StepLoss:
        """The paper's form: a stochastic and an adversarial pass, each of weight one half."""
        rows, length = ci[0].shape[:2]
        noise, route = self._draws(share, slice(rows), length)
        # one reading for all passes: the sigmoid's backward clamps the sum of their gradients
        divergence = recon.divergence_from_sources(ci, None, noise, self.kernels, route)
        stochastic = divergence.mean()
        terms = {f"stochastic_{self.readout.term}": stochastic.item()}
        if share.sources is None:
            return StepLoss(stochastic, terms)
        fixed = [g.detach() for g in ci]
        for _ in range(self.recipe.adversary_extra_climbs):
            leaf = share.sources.leaf()
            divergence = recon.divergence_from_sources(
                fixed, _over_positions(leaf), None, self.kernels, frozen=True
            )
            # one half, as the last climb's gradient comes from the weighted loss
            (gradient,) = torch.autograd.grad(0.5 * divergence.mean(), leaf)
            share.sources.climb(gradient / (share.parts * self.workers.size), self.warmth(progress))
        leaf = share.sources.leaf()
        divergence = recon.divergence_from_sources(ci, _over_positions(leaf), None, self.kernels)
        adversarial = divergence.mean()
        terms[f"adversarial_{self.readout.term}"] = adversarial.item()
        return StepLoss(0.5 * stochastic + 0.5 * adversarial, terms, leaf)

    def _draws(self, share: Share, rows: slice, length: int) -> tuple[Tensor, Tensor]:
        """r of subcomponents and Deltas, and routes, of some rows."""
        sites = len(self.ci_function.order)
        noise = share.noise.sources(rows, length, sum(self.ci_function.C) + sites)
        return noise, share.noise.routes(rows, length, sites)


def _slope(result: StepLoss) -> Tensor | None:
    return None if result.sources is None else result.sources.grad


def _over_positions(leaf: Tensor | None) -> Float[Tensor, "rows _ any"] | None:
    """Sources shared over positions with a dimension of 1 for them."""
    return leaf if leaf is None or leaf.ndim == 3 else leaf[:, None]
