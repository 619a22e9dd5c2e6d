"""The one objective that every method is trained on.

    mean over target tokens of max(0, chance - CE)  +  kl_weight * mean KL(clean || edited)

Each token's cross-entropy is hinged by itself: it is pushed up to chance and not past it. A hinge
on the mean would be off wherever one token (the first after end-of-text, at 11 to 13 nats) is far
above chance. The KL is per token of protected text. All of it in float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pd_finetune.targets.load import Target
from pd_finetune.targets.predictions import Predictions, Prepared
from pd_finetune.text.budget import TargetSample

_ROWS = 32  # rows of a forward: more are accumulated, so that memory doesn't grow with the budget


class Objective:
    """Target and protected terms for one sample and one pool of protected windows.

    Built while the target runs clean: the clean side of the KL is computed here, once.

    Args:
        pool: windows of protected text, end-of-text first.
        kl_weight: nats of KL against nats of target cross-entropy.
        lowest_layer: of the edit; what lies below it is computed here, once.
    """

    def __init__(
        self,
        target: Target,
        sample: TargetSample,
        pool: Int[Tensor, "pool tokens"],
        kl_weight: float,
        lowest_layer: int | None = None,
    ) -> None:
        self.chance_nats, self.kl_weight = target.chance_nats, kl_weight
        self.target_tokens = sample.tokens
        self._predictions = Predictions(target, lowest_layer, _ROWS)
        self._sample = self._predictions.enter(sample.rows[:, :-1])
        self._labels = sample.rows[:, 1:].to(target.device)
        self._counted = sample.counted[:, 1:].to(target.device)
        self._pool = pool
        self._prepared_pool = None
        if len(list(self._predictions.portions(pool))) == 1:
            # the same for every budget and method that edits from this layer upwards
            self._prepared_pool = self._predictions.prepared(pool, clean=True)

    def windows(self, rows: Int[Tensor, " rows"]) -> Prepared:
        """The pool's windows `rows`; made anew where the whole pool's predictions are too large.

        To be called outside of the edit.
        """
        if self._prepared_pool is not None:
            return self._prepared_pool[rows]
        ids = self._pool[rows.to(self._pool.device)]
        return self._predictions.prepared(ids, clean=True, keep=False)

    def forwards(self, windows: Prepared) -> Iterator[tuple[slice, Prepared]]:
        """Rows of the sample and windows that a forward takes: all windows ride with the first."""
        for start in range(0, len(self._sample), _ROWS):
            yield slice(start, start + _ROWS), windows if start == 0 else windows[:0]

    def terms(
        self, part: slice, windows: Prepared
    ) -> tuple[Float[Tensor, " tokens"], Float[Tensor, "rows pos"]]:
        """Cross-entropy of each counted token of the sample's rows `part`, KL of the windows: nats.

        From one forward: that of one short row costs a sixth of one of 16 windows.
        """
        assert windows.clean is not None
        head, sample, protected = self._predictions.head, self._sample[part], windows.entering
        (count, length), positions = sample.shape[:2], protected.shape[1]
        width = max(length, positions)
        states = self._predictions.states(
            torch.cat([_lengthened(sample, width), _lengthened(protected, width)])
        )
        counted = self._counted[part]
        ours, theirs = states[:count, :length][counted], states[count:, :positions]
        partition = head.partition(torch.cat([ours, theirs.flatten(0, 1)]))
        ce = head.cross_entropies(ours, self._labels[part][counted], partition[: len(ours)])
        rest = partition[len(ours) :].view(theirs.shape[:2])
        return ce, head.divergences(theirs, windows.clean, rest)

    def hinge(self, ce: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
        """How far each token's cross-entropy is below chance, in nats; 0 above it."""
        return (self.chance_nats - ce).clamp_min(0.0)


def _lengthened(rows: Tensor, length: int) -> Tensor:
    """Zeros behind rows of ids or of hidden states; causal attention doesn't look there."""
    missing = length - rows.shape[1]
    return F.pad(rows, (0, 0, 0, missing) if rows.ndim == 3 else (0, missing))
