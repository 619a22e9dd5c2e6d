"""The loss of one training step, in the merged (current) and the separate (paper) form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import SiteMask, Subcomponents
from pd_finetune.decomposition.config import RecipeConfig
from pd_finetune.decomposition.losses import FrequencyPenalty, faithfulness, p_norm_minimality
from pd_finetune.decomposition.micro_batch import MicroBatch
from pd_finetune.decomposition.noise import RowNoise, fractions
from pd_finetune.decomposition.recompute import recomputed
from pd_finetune.decomposition.sigmoids import readings
from pd_finetune.decomposition.sources import PersistentSources
from pd_finetune.distributed import Workers
from pd_finetune.runtime import autocast, has_fast_bfloat16
from pd_finetune.targets.readout import Readout

# positions up to which attention by plain products is faster than torch's tiles on a CPU
_SHORT = 256


def annealed(start: float, end: float, progress: float, fraction: float) -> float:
    """Linear from `start` to `end` over the first `fraction` of the training, then constant."""
    return start + (end - start) * min(1.0, progress / fraction)


@dataclass
class StepLoss:
    """Total loss, its terms as numbers, and the adversary's sources.

    Before the backward these are the leaf whose gradient climbs, after it that gradient.
    """

    total: Float[Tensor, ""]
    terms: dict[str, float]
    sources: Float[Tensor, "rows *rest"] | None = None


@dataclass(frozen=True)
class Share:
    """The rows that a loss is of, as a part of the global batch.

    Args:
        sources: of those that are adversarial.
        parts: into how many micro-batches the process's rows are split.
        means: minimality's means over the global batch; None: to be had from the workers, as these
            are all rows of this process.
        first: whether what a step counts once (faithfulness, running frequencies) counts here.
    """

    sources: PersistentSources | None
    parts: int = 1
    means: Float[Tensor, " C"] | None = None
    first: bool = True


class Clean(NamedTuple):
    """A clean forward of some rows, and `readings` of what the sites read in it."""

    batch: Tensor
    output: Float[Tensor, "rows pos any"]
    ci: Float[Tensor, "rows pos C"]
    means: Float[Tensor, " C"]
    important: Int[Tensor, ""]


@dataclass
class StepMaker:
    """Makes the loss of a step from a batch; holds what all steps share.

    Args:
        precision: see `runtime.autocast`.
        compiled: the clean forward with what reads it, and the masked one, are each made one
            region by torch.compile (minutes, once), which takes few passes over memory.
        recompute: activations of masked forwards, see `recompute`.
    """

    model: nn.Module
    readout: Readout
    components: Subcomponents
    ci_function: CIFunction
    sources: PersistentSources | None
    frequency: FrequencyPenalty
    recipe: RecipeConfig
    precision: str
    workers: Workers = field(default_factory=Workers)
    compiled: bool = False
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.precision == "auto":  # here, as compiled code cannot ask the machine
            fast = has_fast_bfloat16(next(self.model.parameters()).device)
            self.precision = "bfloat16" if fast else "float32"
        # of the forward that is running
        self._masks: dict[str, SiteMask] = {}
        self._inputs: dict[str, Tensor] = {}
        wrap: Any = partial(torch.compile, dynamic=False) if self.compiled else lambda f: f
        self._clean, self._divergence = wrap(self._clean_forward), wrap(self._masked_forward)

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
        with self._running(batch):
            return self._loss(batch, step, noise, Share(self.sources))

    def backward(
        self, batch: Tensor, step: int, noise: RowNoise, parts: Sequence[MicroBatch]
    ) -> StepLoss:
        """The same loss and its gradients, the activations of one of `parts` at a time."""
        means, count = None, len(parts)
        results: list[tuple[Tensor, dict[str, float]]] = []
        # one tensor, filled part by part: of a source per position it is as large as activations
        slopes = None if self.sources is None else torch.empty_like(self.sources.values)
        with self._running(batch):
            if count > 1:
                # minimality's slope needs the means over all rows: a forward of each beforehand
                value = self._measure(step / self.recipe.steps)
                with torch.no_grad():
                    each = [self._clean(batch[part.rows], value).means for part in parts]
                means = self.workers.mean(torch.stack(each).mean(0))
            for part in parts:
                # a part's sources count their climbs for themselves
                sources = self.sources and (
                    self.sources if count == 1 else self.sources.part(part.sources)
                )
                own = replace(noise, rows=[noise.rows[row] for row in part.rows])
                share = Share(sources, count, means, first=not results)
                result = self._loss(batch[part.rows], step, own, share)
                result.total.backward()
                if slopes is not None and result.sources is not None:
                    assert result.sources.grad is not None
                    slopes[part.sources] = result.sources.grad
                results.append((result.total.detach(), result.terms))
        if self.sources is not None and self.recipe.recon == "separate" and count > 1:
            self.sources.climbs += self.recipe.adversary_extra_climbs
        terms: dict[str, float] = {}
        for name in results[0][1]:  # the first has all of them
            some = [found[name] for _, found in results if name in found]
            terms[name] = sum(some) / len(some)
        return StepLoss(torch.stack([total for total, _ in results]).sum(), terms, slopes)

    @contextmanager
    def _running(self, batch: Tensor) -> Iterator[None]:
        """What holds for a step's forwards and, where these are run again, its backward."""
        with ExitStack() as held:
            held.enter_context(self.components.masked(self.model, self._masks, self._inputs))
            if self.recompute:
                held.enter_context(recomputed(self.components, self.model, self._masks))
            if batch.device.type == "cpu" and batch.shape[1] <= _SHORT:
                held.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield

    def _clean_forward(self, batch: Tensor, value: Float[Tensor, ""]) -> Clean:
        with autocast(batch.device, self.precision):
            with torch.no_grad():
                output = self.readout.output(batch)
            x = self.ci_function(self._inputs)
            self._inputs.clear()
            return Clean(batch, output, *readings(x, self.recipe.minimality, value))

    def _masked_forward(
        self,
        clean: Clean,
        sources: Float[Tensor, "hostile *_ C_and_sites"] | None,
        noise: UInt8[Tensor, "others pos C_and_sites"] | None,
        route: Bool[Tensor, "rows pos sites"] | None = None,
    ) -> Float[Tensor, "rows pos"]:
        """Divergence from the clean output with all sites replaced, masks g + (1 - g) r.

        Args:
            sources: r of the first rows and of their Delta, one per site, in the last dimension.
            noise: the same of the other rows.
            route: which positions of which sites are replaced; None: all.
        """
        ci, r = clean.ci, []
        if sources is not None:
            shared = sources if sources.ndim == 3 else sources[:, None]
            r.append(shared.to(ci.dtype).expand(-1, ci.shape[1], -1))
        if noise is not None:
            r.append(fractions(noise, ci.dtype))
        raw, delta = torch.cat(r).split([ci.shape[-1], len(self.ci_function.order)], -1)
        masks = self.ci_function.split(torch.addcmul(ci, 1 - ci, raw))
        for i, (name, mask) in enumerate(masks.items()):
            routed = None if route is None else route[..., i]
            self._masks[name] = SiteMask(mask, delta[..., i], routed)
        with autocast(ci.device, self.precision):
            output = self.readout.output(clean.batch)
            self._masks.clear()
            return self.readout.divergence(output, clean.output)

    def _loss(self, batch: Tensor, step: int, noise: RowNoise, share: Share) -> StepLoss:
        recipe = self.recipe
        progress = step / recipe.steps
        clean = self._clean(batch, self._measure(progress))
        own, positions = clean.means, batch.shape[0] * batch.shape[1]
        form = self._merged if recipe.recon == "merged" else self._separate
        result = form(clean, progress, noise, share)
        # minimality is no mean over tokens: its value and slope are taken at the global batch's
        # means, its gradient flows through this part
        everywhere = self.workers.mean(own) if share.means is None else share.means
        means = own + (everywhere - own.detach())
        if recipe.minimality == "smooth_l0":
            minimality = recipe.minimality_coefficient * means.sum()
            frequency = recipe.frequency_coefficient * self.frequency(means, observe=share.first)
        else:
            minimality = recipe.minimality_coefficient * p_norm_minimality(
                means, positions * share.parts * self.workers.size, recipe.beta
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
        result.terms["ci_l0"] = clean.important.item() / positions
        return result

    def _measure(self, progress: float) -> Float[Tensor, ""]:
        """gamma or p of this step: a tensor, as a number would be a constant of compiled code."""
        recipe = self.recipe
        ends, fraction = (recipe.gamma_start, recipe.gamma_end), recipe.anneal_fraction
        if recipe.minimality == "p_norm":
            ends, fraction = (recipe.p_start, recipe.p_end), 1.0
        value = annealed(*ends, progress, fraction)
        return torch.tensor(value, device=self.frequency.mean.device)

    def _merged(self, clean: Clean, progress: float, draws: RowNoise, share: Share) -> StepLoss:
        """One masked forward: the first half of the rows adversarial on all sites, the other
        stochastic and routed. Rows are drawn anew each step, so a fixed half is a random half."""
        rows = len(clean.batch)
        hostile = 0 if share.sources is None else rows // 2
        noise, route = self._draws(draws, slice(hostile, rows), clean.ci)
        leaf = None
        if share.sources is not None:
            leaf = share.sources.leaf()
            route = torch.cat([torch.ones_like(route), route])
        divergence = self._divergence(clean, leaf, noise, route)
        name = self.readout.term
        terms = {f"stochastic_{name}": divergence[hostile:].mean().item()}
        if hostile:
            terms[f"adversarial_{name}"] = divergence[:hostile].mean().item()
        return StepLoss(divergence.mean(), terms, leaf)

    def _separate(self, clean: Clean, progress: float, draws: RowNoise, share: Share) -> StepLoss:
        """The paper's form: a stochastic and an adversarial pass, each of weight one half."""
        noise, route = self._draws(draws, slice(len(clean.batch)), clean.ci)
        # one reading for all passes: the sigmoid's backward clamps the sum of their gradients
        stochastic = self._divergence(clean, None, noise, route).mean()
        terms = {f"stochastic_{self.readout.term}": stochastic.item()}
        if share.sources is None:
            return StepLoss(stochastic, terms)
        fixed = clean._replace(ci=clean.ci.detach())
        self.components.requires_grad_(False)
        for _ in range(self.recipe.adversary_extra_climbs):
            leaf = share.sources.leaf()
            divergence = self._divergence(fixed, leaf, None)
            # one half, as the last climb's gradient comes from the weighted loss
            (gradient,) = torch.autograd.grad(0.5 * divergence.mean(), leaf)
            share.sources.climb(gradient / (share.parts * self.workers.size), self.warmth(progress))
        self.components.requires_grad_(True)
        leaf = share.sources.leaf()
        adversarial = self._divergence(clean, leaf, None).mean()
        terms[f"adversarial_{self.readout.term}"] = adversarial.item()
        return StepLoss(0.5 * stochastic + 0.5 * adversarial, terms, leaf)

    def _draws(self, draws: RowNoise, rows: slice, ci: Tensor) -> tuple[Tensor, Tensor]:
        """Bytes of subcomponents' and Deltas' r, and routes, of some rows."""
        length, sites = ci.shape[1], len(self.ci_function.order)
        noise = draws.sources(rows, length, ci.shape[-1] + sites)
        return noise, draws.routes(rows, length, sites)
