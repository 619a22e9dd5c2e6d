"""A target's predictions of rows, edited or not: the one way to every cross-entropy and KL.

What lies below the lowest edited layer computes as before, and so does the clean side of a KL: both
are made once per text, outside of the edit, and kept for the next edit of the same process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pd_finetune.targets.head import Clean, Head, states_of

if TYPE_CHECKING:
    from pd_finetune.targets.load import Target

# Families whose body is its embedding, a stack of like layers that each see only the one before,
# and a norm. Others add position embeddings on entry, or number their layers.
_FAMILIES = ("arcee", "llama", "gpt_neox")
_LOGIT_BYTES = 2**26  # logits that one forward may hold
_ROWS_PER_THREAD = 4  # of a forward on the CPU unless told: their activations stay in the cache
_ROWS_ELSEWHERE = 32
_READY_BYTES = 2**28  # of what is prepared at once
_KEPT_BYTES = 2**29  # of one target, all together
_KEPT: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], tuple[Tensor, ...]]] = WeakKeyDictionary()


@dataclass
class Prepared:
    """Rows as a forward takes them: made outside of the edit, used within it.

    Args:
        entering: token ids, or [rows, pos, width] what enters the lowest edited layer.
        clean: of the same positions, where a KL is wanted.
    """

    entering: Tensor
    clean: Clean | None = None

    def __getitem__(self, rows: slice | Int[Tensor, " rows"]) -> Prepared:
        clean = None if self.clean is None else Clean(*(tensor[rows] for tensor in self.clean))
        return Prepared(self.entering[rows], clean)


class Predictions:
    """Forwards of a target through the layers that an edit can change, and what they predict.

    Args:
        lowest_layer: that is edited; at None, or for a model that cannot be entered half-way, the
            whole model runs.
        batch: rows of a forward; 0: as suits the device. Fewer where logits would exceed 64 MB.

    `head` makes cross-entropies and divergences of the states.
    """

    def __init__(self, target: Target, lowest_layer: int | None = None, batch: int = 0) -> None:
        self._model: Any = target.model
        self._device, self._batch = target.device, batch
        can_be_entered = self._model.config.model_type in _FAMILIES
        self._start = lowest_layer if can_be_entered else None
        self.head = Head.of(self._model)

    def batches(self, rows: Int[Tensor, "rows pos"] | Tensor) -> Iterator[slice]:
        """Slices of rows that one forward takes."""
        vocab = int(self._model.config.get_text_config().vocab_size)
        on_cpu = self._device.type == "cpu"
        suits = _ROWS_PER_THREAD * torch.get_num_threads() if on_cpu else _ROWS_ELSEWHERE
        most = _LOGIT_BYTES // (4 * vocab * max(1, rows.shape[1]))
        yield from _slices(len(rows), min(self._batch or suits, most))

    def portions(self, rows: Int[Tensor, "rows pos"]) -> Iterator[slice]:
        """Slices of rows of which `prepared` may hold everything at once."""
        config = self._model.config.get_text_config()
        width = config.hidden_size if self.head.embedding is not None else config.vocab_size
        yield from _slices(len(rows), _READY_BYTES // (4 * width * max(1, rows.shape[1])))

    @torch.no_grad()
    def enter(self, ids: Int[Tensor, "rows pos"]) -> Tensor:
        """What `states` takes for `ids`: themselves, or [rows, pos, width] entering the layer."""
        if self._start is None:
            return ids.to(self._device)
        layer = self._model.base_model.layers[self._start]
        found: list[Tensor] = []
        with (
            self._layers(slice(self._start + 1)),
            layer.register_forward_pre_hook(lambda module, args: found.append(args[0])),
        ):
            for part in self.batches(ids):
                self._model.base_model(input_ids=ids[part].to(self._device), use_cache=False)
        return torch.cat(found)

    def states(self, entering: Tensor) -> Float[Tensor, "rows pos any"]:
        """Last hidden states (or logits, see `head`), in float32, differentiable in the edit."""
        if self._start is None:
            return states_of(self._model, input_ids=entering).float()
        with self._layers(slice(self._start, None)):
            return states_of(self._model, inputs_embeds=entering).float()

    def prepared(
        self, ids: Int[Tensor, "rows pos"], clean: bool = False, keep: bool = True
    ) -> Prepared:
        """Every position of `ids` as `states` takes it; to be called outside of the edit.

        Args:
            clean: with what a KL against the present predictions needs.
            keep: for the next edit of this process, where there is room.
        """
        # another number of threads or rows gives other last digits: these are another text's
        digest = hashlib.sha256(ids.cpu().numpy().tobytes()).digest()
        key = (torch.get_num_threads(), self._batch, self._start, tuple(ids.shape), digest)
        (entering,) = self._kept((*key, "entering"), lambda: (self.enter(ids),), keep)
        if not clean:
            return Prepared(entering)
        return Prepared(
            entering, Clean(*self._kept((*key, "clean"), lambda: self._clean(entering), keep))
        )

    @torch.no_grad()
    def scores(
        self, rows: Prepared, labels: Int[Tensor, "rows pos"]
    ) -> tuple[list[float], list[float]]:
        """Mean cross-entropy and, where there is a clean side, mean KL of each row, in nats."""
        ces: list[float] = []
        kls: list[float] = []
        for part in self.batches(rows.entering):
            mine, states = rows[part], self.states(rows.entering[part])
            partition = self.head.partition(states)
            ce = self.head.cross_entropies(states, labels[part].to(states.device), partition)
            ces += ce.double().mean(1).tolist()
            if mine.clean is not None:
                kl = self.head.divergences(states, mine.clean, partition)
                kls += kl.double().mean(1).tolist()
        return ces, kls

    @torch.no_grad()
    def _clean(self, entering: Tensor) -> Clean:
        parts = [self.head.clean(self.states(entering[p])) for p in self.batches(entering)]
        return Clean(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    @contextmanager
    def _layers(self, part: slice) -> Iterator[None]:
        """Within the context the model has only these of its layers."""
        body = self._model.base_model
        layers = body.layers
        body.layers = layers[part]
        try:
            yield
        finally:
            body.layers = layers

    def _kept(
        self, key: tuple[Any, ...], compute: Callable[[], tuple[Tensor, ...]], keep: bool
    ) -> tuple[Tensor, ...]:
        mine = _KEPT.setdefault(self._model, {})
        if key in mine:
            return mine[key]
        tensors = compute()
        held = sum(tensor.nbytes for kept in (*mine.values(), tensors) for tensor in kept)
        if keep and held <= _KEPT_BYTES:
            mine[key] = tensors
        return tensors


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, max(1, size)):
        yield slice(start, start + max(1, size))


def sequence_cross_entropies(
    target: Target, ids: Int[Tensor, "rows pos"], batch: int = 0
) -> list[float]:
    """Mean next-token cross-entropy of each row by the model as it is now, in nats.

    The first token is not predicted. Rows are equally long, so the mean of these values is the mean
    per token.
    """
    predictions = Predictions(target, batch=batch)
    return predictions.scores(Prepared(ids[:, :-1].to(target.device)), ids[:, 1:])[0]
