"""The one objective that every method is trained on.

    mean over target tokens of max(0, chance - CE)  +  kl_weight * mean KL(clean || edited)

Each token's cross-entropy is hinged by itself: it is pushed up to chance and not past it. A hinge
on the mean would be off wherever one token (the first after end-of-text, at 11 to 13 nats) is far
above chance. The KL is per token of protected text. All of it in float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pd_finetune.targets.head import has_linear_head
from pd_finetune.targets.kept import kept
from pd_finetune.targets.load import Target
from pd_finetune.targets.partition import log_partition, mean_embedding_and_negentropy
from pd_finetune.targets.upper import UpperLayers
from pd_finetune.text.budget import TargetSample

_ROWS = 32  # rows of a forward: more are accumulated, so that memory doesn't grow with the budget
_KEPT_BYTES = 2**30  # clean log-probabilities larger than this are made again at every step


@dataclass
class _Clean:
    """What the KL needs of the clean predictions of the pool: one of the two forms."""

    mean_embedding: Float[Tensor, "pool pos width"] | None = None
    negentropy: Float[Tensor, "pool pos"] | None = None
    log_probabilities: Float[Tensor, "pool pos vocab"] | None = None


def _digest(ids: Int[Tensor, "rows pos"]) -> tuple[object, ...]:
    return tuple(ids.shape), hashlib.sha256(ids.cpu().numpy().tobytes()).hexdigest()


def _lengthened(rows: Tensor, length: int) -> Tensor:
    """Zeros behind rows of ids or of hidden states; causal attention doesn't look there."""
    missing = length - rows.shape[1]
    return F.pad(rows, (0, 0, 0, missing) if rows.ndim == 3 else (0, missing))


class Objective:
    """Target and protected terms for one sample and one pool of protected windows.

    Built while the target runs clean: the clean side of the KL is computed here, once.

    Args:
        pool: windows of protected text, end-of-text first.
        kl_weight: nats of KL against nats of target cross-entropy.
        lowest_layer: of the edit; what lies below it is computed here, once.
        fused: take the partition sum in chunks where the head allows it; False holds all logits.
    """

    def __init__(
        self,
        target: Target,
        sample: TargetSample,
        pool: Int[Tensor, "pool tokens"],
        kl_weight: float,
        lowest_layer: int | None = None,
        fused: bool = True,
    ) -> None:
        self.target, self.kl_weight = target, kl_weight
        self.chance_nats = target.chance_nats
        device = target.model.device
        self._rows = sample.rows.to(device)
        self._counted = sample.counted.to(device)
        self.target_tokens = sample.tokens
        self._pool = pool.to(device)
        self.fused = fused and has_linear_head(target.model)
        head = target.model.get_output_embeddings()
        self.fused = self.fused and head.bias is None
        if self.fused:
            self._embedding = head.weight.detach().float()
            self._upper = UpperLayers(target.model, lowest_layer)
            self._entering_rows = self._enter(self._rows[:, :-1])
            # the same for every budget and method that edits from this layer upwards
            key = ("pool", self._upper.start, _digest(self._pool))
            (self._entering_pool,) = kept(
                target, (*key, "entering"), lambda: (self._enter(self._pool),)
            )
            self._clean = _Clean(*kept(target, (*key, "clean"), self._clean_statistics))
        else:
            self._clean = self._clean_predictions()

    def _enter(self, ids: Int[Tensor, "rows pos"]) -> Tensor:
        return torch.cat([self._upper.enter(part) for part in ids.split(_ROWS)])

    @torch.no_grad()
    def _clean_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean embedding and negentropy at each position of the pool."""
        pairs = []
        for entering in self._entering_pool.split(_ROWS):
            hidden = self._upper.hidden(entering)
            mean, negentropy = mean_embedding_and_negentropy(hidden.flatten(0, 1), self._embedding)
            pairs.append((mean.view_as(hidden), negentropy.view(hidden.shape[:2])))
        return torch.cat([m for m, _ in pairs]), torch.cat([n for _, n in pairs])

    @torch.no_grad()
    def _clean_predictions(self) -> _Clean:
        parts = self._pool.split(_ROWS)
        logs = self._logits(self._pool[:1]).log_softmax(-1)
        if logs.numel() * len(self._pool) * 4 > _KEPT_BYTES:
            return _Clean()
        return _Clean(
            log_probabilities=torch.cat([self._logits(ids).log_softmax(-1) for ids in parts])
        )

    def _logits(self, ids: Int[Tensor, "rows pos"]) -> Float[Tensor, "rows pos vocab"]:
        return self.target.model(input_ids=ids, use_cache=False).logits.float()

    def target_ce(self, part: slice = slice(None)) -> Float[Tensor, " tokens"]:
        """Cross-entropy of each counted target token of the rows in `part`, in nats."""
        ids, counted = self._rows[part], self._counted[part, 1:]
        labels = ids[:, 1:][counted]
        if not self.fused:
            logits = self._logits(ids[:, :-1])[counted]
            return F.cross_entropy(logits, labels, reduction="none")
        hidden = self._upper.hidden(self._entering_rows[part])[counted]
        return log_partition(hidden, self._embedding) - (hidden * self._embedding[labels]).sum(-1)

    def clean_log_probabilities(self, rows: Int[Tensor, " rows"]) -> Tensor | None:
        """[rows, pos, vocab] from the clean model where they must be made anew, else None.

        To be called outside of the edit.
        """
        if self.fused or self._clean.log_probabilities is not None:
            return None
        with torch.no_grad():
            return self._logits(self._pool[rows]).log_softmax(-1)

    def protected_kl(
        self, rows: Int[Tensor, " rows"], clean: Tensor | None = None
    ) -> Float[Tensor, "rows pos"]:
        """KL(clean || edited) at each position of the pool's windows `rows`, in nats."""
        if not self.fused:
            ids = self._pool[rows]
            if clean is None:
                assert self._clean.log_probabilities is not None
                clean = self._clean.log_probabilities[rows]
            edited = self._logits(ids).log_softmax(-1)
            return F.kl_div(edited, clean, reduction="none", log_target=True).sum(-1)
        assert self._clean.mean_embedding is not None and self._clean.negentropy is not None
        hidden = self._upper.hidden(self._entering_pool[rows])
        expected = (hidden * self._clean.mean_embedding[rows]).sum(-1)
        partition = log_partition(hidden.flatten(0, 1), self._embedding).view_as(expected)
        return self._clean.negentropy[rows] - expected + partition

    def both(
        self, rows: Int[Tensor, " rows"]
    ) -> tuple[Float[Tensor, " tokens"], Float[Tensor, "rows pos"]]:
        """`target_ce()` and `protected_kl(rows)` from one forward; for a fused objective only.

        A forward of one short row costs a sixth of one of 16 windows, so small samples ride along.
        """
        assert self._clean.mean_embedding is not None and self._clean.negentropy is not None
        sample, windows = self._entering_rows, self._entering_pool[rows]
        count, length = sample.shape[:2]
        width = max(length, windows.shape[1])
        hidden = self._upper.hidden(
            torch.cat([_lengthened(sample, width), _lengthened(windows, width)])
        )
        predicting = hidden[:count, :length][self._counted[:, 1:]]
        protected = hidden[count:, : windows.shape[1]]
        partition = log_partition(torch.cat([predicting, protected.flatten(0, 1)]), self._embedding)
        labels = self._rows[self._counted]
        ce = partition[: len(labels)] - (predicting * self._embedding[labels]).sum(-1)
        expected = (protected * self._clean.mean_embedding[rows]).sum(-1)
        kl = self._clean.negentropy[rows] - expected + partition[len(labels) :].view_as(expected)
        return ce, kl

    def hinge(self, ce: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
        """How far each token's cross-entropy is below chance, in nats; 0 above it."""
        return (self.chance_nats - ce).clamp_min(0.0)

    def sample_parts(self) -> Iterator[slice]:
        """The sample's rows, in parts that one forward takes."""
        for start in range(0, len(self._rows), _ROWS):
            yield slice(start, start + _ROWS)
