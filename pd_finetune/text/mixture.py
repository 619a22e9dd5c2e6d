"""Random training windows from a mixture of languages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor

from pd_finetune.errors import UserError
from pd_finetune.text.tokens import DocumentSource, token_stream


@dataclass(frozen=True)
class MixedWindows:
    """Batches of windows, a language drawn per row by its share; a pure function of the step.

    Nothing but seed and step decides a batch, so a resumed training sees the same text.
    """

    streams: dict[str, Int[np.ndarray, " tokens"]]
    mixture: dict[str, float]
    rows: int
    length: int
    seed: int

    def __call__(self, step: int) -> Int[Tensor, "rows length"]:
        rng = np.random.default_rng((self.seed, step))
        names = list(self.mixture)
        shares = np.array([self.mixture[name] for name in names])
        rows = []
        for pick in rng.choice(len(names), size=self.rows, p=shares / shares.sum()):
            stream = self.streams[names[pick]]
            start = rng.integers(0, len(stream) - self.length)
            rows.append(np.asarray(stream[start : start + self.length], dtype=np.int64))
        return torch.from_numpy(np.stack(rows))


def mixed_windows(
    tokenizer: Tokenizer,
    source: DocumentSource,
    mixture: dict[str, float],
    rows: int,
    length: int,
    seed: int,
    split: str = "train",
) -> MixedWindows:
    """Windows over the streams of one split.

    Raises:
        UserError: a language has less text than one window.
    """
    streams = {name: token_stream(tokenizer, source, name, split) for name in mixture}
    for name, stream in streams.items():
        if len(stream) <= length:
            raise UserError(
                f"{split} text of {name} has {len(stream)} tokens, a window needs {length + 1}"
            )
    return MixedWindows(streams, mixture, rows, length, seed)
