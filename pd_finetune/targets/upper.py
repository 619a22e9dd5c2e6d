"""A model from one of its layers upwards: an edit up there leaves what lies below as it was."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

# Families whose body is its embedding, a stack of like layers that each see only the one before,
# and a norm. Others add position embeddings on entry, or treat layers by their number.
_FAMILIES = ("arcee", "llama", "gpt_neox")
_KNOWN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


class _Entered(Exception):
    """Ends a forward whose rest is not wanted; carries what enters the layer."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


class UpperLayers:
    """Forwards through the layers from `start` upwards, with the final norm, without the head.

    Args:
        start: the lowest layer that an edit touches. At 0 or None, or for a model that cannot be
            entered half-way, the whole model runs and token ids are what enters.
    """

    def __init__(self, model: Any, start: int | None) -> None:
        self._model = model
        self.start = start if start and _can_be_entered(model) else 0

    @torch.no_grad()
    def enter(self, ids: Int[Tensor, "rows pos"]) -> Tensor:
        """What `hidden` takes for `ids`: themselves, or [rows, pos, width] entering the layer.

        To be called outside of the edit.
        """
        return _entering(self._model, ids, self.start) if self.start else ids

    def hidden(self, entered: Tensor) -> Float[Tensor, "rows pos width"]:
        """The last hidden states, in float32, differentiable in an edit of the upper layers."""
        body = self._model.base_model
        if not self.start:
            output = body(input_ids=entered, use_cache=False)
        else:
            output = _from(body, entered, self.start)
        hidden: Tensor = output.last_hidden_state
        return hidden.float()


def _entering(model: Any, ids: Tensor, start: int) -> Tensor:
    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Entered(args[0] if args else kwargs["hidden_states"])

    handle = model.base_model.layers[start].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model.base_model(input_ids=ids, use_cache=False)
    except _Entered as entered:
        return entered.hidden
    finally:
        handle.remove()
    raise AssertionError("the forward did not pass through its own layer")


def _from(body: Any, hidden: Tensor, start: int) -> Any:
    layers = body.layers
    body.layers = nn.ModuleList(layers[start:])
    try:
        return body(inputs_embeds=hidden, use_cache=False)
    finally:
        body.layers = layers


def _can_be_entered(model: Any) -> bool:
    """Known family, and the two halves of a short forward give the whole; once per model."""
    known = _KNOWN.get(model)
    if known is not None:
        return known
    answer = False
    layers = getattr(model.base_model, "layers", None)
    if model.config.model_type in _FAMILIES and isinstance(layers, nn.ModuleList):
        ids = torch.arange(4, device=model.device)[None] % model.config.vocab_size
        with torch.no_grad():
            whole = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            start = len(layers) // 2
            halves = _from(model.base_model, _entering(model, ids, start), start)
        answer = torch.allclose(whole, halves.last_hidden_state, atol=1e-4, rtol=1e-4)
    _KNOWN[model] = answer
    return answer
