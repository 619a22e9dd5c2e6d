"""Training a decomposition: optimiser, schedule, logging, checkpoints, exact resume."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from pd_finetune.decomposition.checkpoint import identity, read_checkpoint, write_checkpoint
from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import Subcomponents, shared_inputs
from pd_finetune.decomposition.config import DecomposeConfig
from pd_finetune.decomposition.data_start import SiteInputs
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.initialise import begin_with, check_start, initialise
from pd_finetune.decomposition.losses import FrequencyPenalty
from pd_finetune.decomposition.memory import memory_bytes
from pd_finetune.decomposition.micro_batch import micro_batches
from pd_finetune.decomposition.noise import RowNoise, fractions
from pd_finetune.decomposition.recompute import blocks_of
from pd_finetune.decomposition.sites import find_sites
from pd_finetune.decomposition.sources import PersistentSources
from pd_finetune.decomposition.step import StepLoss, StepMaker
from pd_finetune.distributed import Workers
from pd_finetune.errors import TrainingError
from pd_finetune.files import replacing
from pd_finetune.targets.readout import Decomposable

# token ids [rows, window], or the inputs of a toy [rows, window, features]
BatchAt = Callable[[int], Tensor]


@dataclass
class Trainer:
    """Everything a decomposition's training carries from step to step.

    Args:
        target: the frozen model: a language model or a toy.
        config: sites, recipe, sizes, seed.
        batch_at: the batch of a step, a function of the step alone (so that a resume repeats it).
        folder: where `checkpoint.pt` and `metrics.jsonl` go.
        workers: the processes that share each batch.
        start: a decomposition to begin with, in place of a fit to the weights.
    """

    target: Decomposable
    config: DecomposeConfig
    batch_at: BatchAt
    folder: Path
    workers: Workers = field(default_factory=Workers)
    start: InitVar[Decomposition | None] = None
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self, start: Decomposition | None) -> None:
        config, recipe = self.config, self.config.recipe
        model, device, readout = self.target.model, self.target.device, self.target.readout
        sites = find_sites(model, config.sites)
        self.start_hash = None if start is None else start.hash
        if start is None:
            self.reads = shared_inputs(model, sites, readout.example(), readout)
        else:
            check_start(start, sites, config.ci_function)
            # the same sites share an input; which of them names it, and so the order, may differ
            self.reads = start.ci_function.reads
        torch.manual_seed(config.seed)
        self.components = Subcomponents(sites).to(device)
        self.ci_function = CIFunction(sites, self.reads, config.ci_function).to(device)
        self.ci_function.recompute = config.activation_checkpointing
        hostile, others = self._rows()
        self.parts = micro_batches(len(hostile), len(others), config.micro_batch)
        if start is None:
            inputs = SiteInputs(self.target, self.batch_at, config.initial_tokens)
            initialise(self.components, model, config.seed, config.initial, inputs, self.workers)
        else:
            begin_with(start, self.components, self.ci_function)
        total = sum(self.ci_function.C)
        sources = None
        if recipe.adversary:
            sources = PersistentSources(
                self._first_sources(total + len(sites)),
                recipe.adversary_lr,
                (recipe.adversary_betas[0], recipe.adversary_betas[1]),
            )
        self.maker = StepMaker(
            model=model,
            readout=readout,
            components=self.components,
            ci_function=self.ci_function,
            sources=sources,
            frequency=FrequencyPenalty(
                total, recipe.frequency_scale, recipe.frequency_half_life_steps
            ).to(device),
            recipe=recipe,
            precision=config.precision,
            workers=self.workers,
            compiled=config.compile,
            recompute=config.activation_checkpointing,
        )
        parameters = [*self.components.parameters(), *self.ci_function.parameters()]
        self.optimiser = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=0.0, fused=True)

    def memory_bytes(self) -> dict[str, int]:
        """What the training will take in each process, by part (an estimate)."""
        recompute = self.config.activation_checkpointing
        blocks = blocks_of(self.target.model, self.components) if recompute else []
        target_bytes = sum(p.numel() * p.element_size() for p in self.target.model.parameters())
        return memory_bytes(
            self.components.sites,
            sum(self.components.sites[name].d_in for name in self.ci_function.inputs),
            target_bytes,
            self.config,
            self.workers.size,
            max(1, len(blocks)),
        )

    def _rows(self) -> tuple[list[int], list[int]]:
        """This process's rows of the global batch: those with persistent sources, and the rest."""
        recipe = self.config.recipe
        hostile = recipe.rows if recipe.recon == "separate" else recipe.rows // 2
        hostile = hostile if recipe.adversary else 0
        first, rest = list(range(hostile)), list(range(hostile, recipe.rows))
        share = self.workers.share
        return first[share(len(first), "recipe.rows")], rest[share(len(rest), "recipe.rows")]

    def _first_sources(self, width: int) -> Float[Tensor, "rows *rest"]:
        recipe = self.config.recipe
        positions = recipe.window if recipe.adversary_scope == "position" else 1
        start = self._noise(-1).sources(slice(len(self._rows()[0])), positions, width)
        start = fractions(start, torch.float32)
        return start if recipe.adversary_scope == "position" else start[:, 0]

    def _noise(self, step: int) -> RowNoise:
        hostile, others = self._rows()
        device = self.target.device
        return RowNoise(self.config.seed, step + 1, hostile + others, device)

    def lr_at(self, step: int) -> float:
        """Cosine from `lr` to `lr_final_fraction` of it."""
        recipe = self.config.recipe
        cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        return recipe.lr * (recipe.lr_final_fraction + (1 - recipe.lr_final_fraction) * cosine)

    def train_step(self) -> StepLoss:
        """One optimiser step of V, U and the CI function; the sources climb on its backward."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr_at(self.step)
        noise = self._noise(self.step)
        batch = self.batch_at(self.step)[noise.rows].to(self.target.device)
        result = self.maker.backward(batch, self.step, noise, self.parts)
        values = torch.tensor([*result.terms.values(), result.total.item()], dtype=torch.float64)
        names = [*result.terms, "loss"]
        means = dict(zip(names, self.workers.mean(values).tolist(), strict=True))
        for term, value in means.items():
            self._require_finite(term, value)
        result.terms = {term: means[term] for term in result.terms}
        parameters = [*self.components.parameters(), *self.ci_function.parameters()]
        self.workers.mean_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.components.parameters(), self.config.recipe.clip)
        self._require_finite("gradient of V and U", norm.item())
        slopes = [p.grad for p in self.ci_function.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(slopes)
        self._require_finite("gradient of the causal-importance function", norm.item())
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if result.sources is not None and self.maker.sources is not None:
            # the mean over this process's rows is steeper than the one over all of them
            warmth = self.maker.warmth(self.step / self.config.recipe.steps)
            self.maker.sources.climb(result.sources.div_(self.workers.size), warmth)
        self.step += 1
        return result

    def _require_finite(self, term: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"{term} is {value} at step {self.step}; last good checkpoint: "
                f"{self.checkpoint if self.checkpoint.is_file() else 'none'}; lower recipe.lr"
            )

    def train(self, progress: bool = True) -> None:
        """Train to the end, from the checkpoint where there is one."""
        if self.checkpoint.is_file():
            self.load(self.checkpoint)
        steps = self.config.recipe.steps
        window: dict[str, list[float]] = defaultdict(list)
        tokens = self.config.recipe.rows * self.config.recipe.window
        started, before, first = time.monotonic(), self.seconds, self.step
        bar = tqdm(
            total=steps,
            initial=self.step,
            desc="decompose",
            unit="step",
            disable=not (progress and self.workers.is_main),
        )
        while self.step < steps:
            for term, value in self.train_step().terms.items():
                window[term].append(value)
            bar.update()
            if self.step % self.config.log_steps == 0 or self.step == steps:
                means = {term: sum(window[term]) / len(window[term]) for term in sorted(window)}
                elapsed = time.monotonic() - started
                speed = (self.step - first) * tokens / elapsed
                self.history.append({"step": self.step, "tokens_per_second": speed, **means})
                term = self.maker.readout.term
                shown = {
                    term.split("_")[0]: f"{means[f'stochastic_{term}']:.3g}",
                    "adversary": f"{means.get(f'adversarial_{term}', float('nan')):.3g}",
                    "l0": f"{means['ci_l0']:.3g}",
                    "tokens_s": f"{speed:.0f}",
                }
                bar.set_postfix(shown)
                window.clear()
            if self.step % self.config.checkpoint_steps == 0 or self.step == steps:
                self.seconds = before + time.monotonic() - started
                self.save(self.checkpoint)
        bar.close()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _identity(self) -> str:
        return identity(self.config, self.target.hash, self.start_hash)

    def save(self, path: Path) -> None:
        """Write the whole state atomically, then the metrics so far; the main process does."""
        sources = None
        if self.maker.sources is not None:  # of all processes
            own = self.maker.sources.state_dict()
            sources = {k: self.workers.gather(v) if v.ndim else v for k, v in own.items()}
        if not self.workers.is_main:
            return
        state = {
            "components": self.components.state_dict(),
            "ci_function": self.ci_function.state_dict(),
            "sources": sources,
            "frequency": self.maker.frequency.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
        }
        write_checkpoint(path, self._identity(), state)
        with replacing(self.folder / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.history))

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            UserError: the file is broken, or is of another target or configuration.
        """
        state = read_checkpoint(path, self._identity(), self.target.device)
        self.components.load_state_dict(state["components"])
        self.ci_function.load_state_dict(state["ci_function"])
        if self.maker.sources is not None:
            own = self._rows()[0]
            every = state["sources"].items()
            self.maker.sources.load_state_dict({k: v[own] if v.ndim else v for k, v in every})
        self.maker.frequency.load_state_dict(state["frequency"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.history = state["history"]
