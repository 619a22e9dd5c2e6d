"""Training a small target from scratch: mixture of languages, checkpoints, exact resume."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from pd_finetune.distributed import Workers
from pd_finetune.errors import TrainingError, UserError, first_line
from pd_finetune.files import replacing
from pd_finetune.pretraining.baselines import trigram_nats, unigram_nats
from pd_finetune.pretraining.config import OptimisationConfig
from pd_finetune.pretraining.vocabulary_loss import chunked_cross_entropy
from pd_finetune.runtime import autocast
from pd_finetune.targets.load import Target
from pd_finetune.targets.predictions import sequence_cross_entropies
from pd_finetune.text.mixture import MixedWindows
from pd_finetune.text.tokens import DocumentSource, token_stream, windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Pretraining:
    """State of a training: everything that a resumed one needs."""

    target: Target
    windows: MixedWindows
    settings: OptimisationConfig
    precision: str
    validation: dict[str, Int[Tensor, "rows pos"]] = field(default_factory=dict)  # by language
    workers: Workers = field(default_factory=Workers)
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model: PreTrainedModel = self.target.model
        self._share = self.workers.share(self.windows.rows, "optimisation.batch")
        decayed = [p for p in self.model.parameters() if p.ndim == 2]
        plain = [p for p in self.model.parameters() if p.ndim != 2]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.settings.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=self.settings.lr,
            betas=(0.9, 0.95),
        )

    def lr_at(self, step: int) -> float:
        """Trapezoid: linear up, constant, linear down to zero over the last `decay_fraction`."""
        s = self.settings
        up = min(1.0, (step + 1) / max(1, s.warmup_steps))
        down = min(1.0, (s.steps - step) / max(1.0, s.steps * s.decay_fraction))
        return s.lr * min(up, down)

    def train_step(self, decoder: Any) -> float:
        """One optimiser step; returns the mean cross-entropy in nats."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr_at(self.step)
        device = self.model.device
        ids = self.windows(self.step)[self._share].to(device)
        with autocast(device, self.precision):
            hidden = decoder(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        unembedding = self.model.get_output_embeddings().weight
        loss = chunked_cross_entropy(hidden.flatten(0, 1), unembedding, ids[:, 1:].reshape(-1))
        value = self.workers.mean(loss).item()
        if not math.isfinite(value):
            raise TrainingError(f"loss is {value} at step {self.step}: lower optimisation.lr")
        loss.backward()
        self.workers.mean_gradients(self.model.parameters())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return value

    def train(self, checkpoint: Path, compiled: bool = False) -> None:
        """Train to the end, from the checkpoint where there is one."""
        if checkpoint.is_file():
            self.load(checkpoint)
        # the decoder without its head: the loss takes the vocabulary in chunks
        decoder: Any = self.model.base_model
        decoder = torch.compile(decoder) if compiled else decoder
        self.model.train()
        started, before = time.monotonic(), self.seconds
        smooth = float("nan")
        bar = tqdm(
            total=self.settings.steps,
            initial=self.step,
            desc="pretrain",
            unit="step",
            disable=not self.workers.is_main,
        )
        while self.step < self.settings.steps:
            value = self.train_step(decoder)
            smooth = value if math.isnan(smooth) else 0.98 * smooth + 0.02 * value
            bar.update()
            bar.set_postfix(ce_nats=f"{smooth:.3f}", lr=f"{self.lr_at(self.step):.1e}")
            if self.step % 50 == 0:
                self.history.append({"step": self.step, "train_ce_nats": smooth})
            if self.step % self.settings.validation_steps == 0 or self.step == self.settings.steps:
                self.history.append({"step": self.step, **self.validation_ce()})
            if self.step % self.settings.checkpoint_steps == 0 or self.step == self.settings.steps:
                self.seconds = before + time.monotonic() - started
                if self.workers.is_main:
                    self.save(checkpoint)
        bar.close()

    def validation_ce(self) -> dict[str, float]:
        """Cross-entropy of the validation windows by language, in nats (main worker only)."""
        if not self.workers.is_main:
            return {}
        self.model.eval()
        values = {}
        for language, ids in self.validation.items():
            nats = sequence_cross_entropies(self.target, ids.to(self.model.device), 32)
            values[f"validation_ce_nats_{language}"] = fmean(nats)
        self.model.train()
        return values

    def save(self, path: Path) -> None:
        with replacing(path) as temporary:
            torch.save(
                {
                    "identity": self._identity(),
                    "model": self.model.state_dict(),
                    "optimiser": self.optimiser.state_dict(),
                    "step": self.step,
                    "seconds": self.seconds,
                    "history": self.history,
                },
                temporary,
            )

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            UserError: the file is broken, or is of another model or mixture.
        """
        try:
            state = torch.load(path, map_location=self.model.device, weights_only=True)
            same = state["identity"] == self._identity()
        except Exception as error:
            reason = first_line(error)
            raise UserError(f"cannot read checkpoint '{path}' ({reason}): delete it") from None
        if not same:
            raise UserError(
                f"checkpoint '{path}' is of another architecture, mixture, seed or learning rate: "
                "give another out=, or delete it"
            )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.history = state["history"]

    def _identity(self) -> str:
        """What a checkpoint must share; `steps` and the decay may change, so that it extends."""
        shapes = {name: list(p.shape) for name, p in self.model.named_parameters()}
        windows = self.windows
        return json.dumps(
            {
                "shapes": shapes,
                "mixture": windows.mixture,
                "streams": {name: len(stream) for name, stream in windows.streams.items()},
                "rows": windows.rows,
                "seed": windows.seed,
                "lr": self.settings.lr,
            },
            sort_keys=True,
        )


def validation_windows(
    target: Target, source: DocumentSource, languages: list[str], rows: int = 64
) -> dict[str, Int[Tensor, "rows pos"]]:
    """Windows of validation text by language, to watch a training by."""
    streams = {n: token_stream(target.tokenizer, source, n, "validation") for n in languages}
    return {n: torch.from_numpy(windows(s, rows, target.context)) for n, s in streams.items()}


def held_out_record(
    training: Pretraining, source: DocumentSource, rows: int = 256
) -> dict[str, dict[str, float]]:
    """Cross-entropy by language on validation and test text, beside n-gram baselines (nats).

    The baselines are fitted to one language's training text each, so they know which it is.
    """
    target, tokenizer = training.target, training.target.tokenizer
    target.model.eval()
    record = {}
    for language, train in training.windows.streams.items():
        values: dict[str, float] = {}
        for split in ("validation", "test"):
            stream = token_stream(tokenizer, source, language, split)
            ids = torch.from_numpy(windows(stream, rows, target.context))
            values[f"{split}_ce_nats"] = fmean(sequence_cross_entropies(target, ids, 32))
        held_out = token_stream(tokenizer, source, language, "test")
        values["test_unigram_nats"] = unigram_nats(train, held_out, target.vocab_size)
        values["test_trigram_nats"] = trigram_nats(train, held_out, target.vocab_size)
        record[language] = values
    return record
