"""A model from one of its layers upwards: an edit up there leaves what lies below as it was."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

# Families whose body is its embedding, a stack of like layers that each see only the one before,
# and a norm of this name. Others add position embeddings on entry, or number their layers.
_FAMILIES = {"arcee": "norm", "llama": "norm", "gpt_neox": "final_layer_norm"}
_KNOWN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

Arguments = dict[str, Any]


class _Entered(Exception):
    """Ends a forward whose rest is not wanted; carries what enters the layer."""

    def __init__(self, hidden: Tensor, others: Arguments) -> None:
        self.hidden, self.others = hidden, others


class UpperLayers:
    """Forwards through the layers from `start` upwards, with the final norm, without the head.

    The layers are called one after the other, with the arguments that the model itself gives them
    for rows of this shape (positions and mask): preparing these takes as long as a layer does.

    Args:
        start: the lowest layer that an edit touches. At None, or for a model that cannot be
            entered half-way, the whole model runs and token ids are what enters.
    """

    def __init__(self, model: Any, start: int | None) -> None:
        self._model = model
        self.start = start if start is not None and _can_be_entered(model) else None
        self._arguments: dict[torch.Size, Arguments] = {}

    @torch.no_grad()
    def enter(self, ids: Int[Tensor, "rows pos"]) -> Tensor:
        """What `hidden` takes for `ids`: themselves, or [rows, pos, width] entering the layer.

        To be called outside of the edit.
        """
        if self.start is None:
            return ids
        return _entering(self._model, self.start, input_ids=ids).hidden

    def hidden(self, entered: Tensor) -> Float[Tensor, "rows pos width"]:
        """The last hidden states, in float32, differentiable in an edit of the upper layers."""
        if self.start is None:
            output = self._model.base_model(input_ids=entered, use_cache=False)
            whole: Tensor = output.last_hidden_state
            return whole.float()
        if entered.shape not in self._arguments:
            with torch.no_grad():
                found = _entering(self._model, 0, inputs_embeds=entered)
            self._arguments[entered.shape] = found.others
        arguments = self._arguments[entered.shape]
        return _through(self._model, self.start, entered, arguments).float()


def _entering(model: Any, layer: int, **inputs: Tensor) -> _Entered:
    """The first argument and the others that a forward gives to a layer."""

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> None:
        others = dict(kwargs)
        raise _Entered(args[0] if args else others.pop("hidden_states"), others)

    handle = model.base_model.layers[layer].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model.base_model(use_cache=False, **inputs)
    except _Entered as entered:
        return entered
    finally:
        handle.remove()
    raise AssertionError("the forward did not pass through its own layer")


def _through(model: Any, start: int, hidden: Tensor, arguments: Arguments) -> Tensor:
    body = model.base_model
    for layer in body.layers[start:]:
        output = layer(hidden, **arguments)
        hidden = output[0] if isinstance(output, tuple) else output
    result: Tensor = getattr(body, _FAMILIES[model.config.model_type])(hidden)
    return result


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
            entered = _entering(model, start, input_ids=ids)
            halves = _through(model, start, entered.hidden, entered.others)
        answer = torch.allclose(whole, halves, atol=1e-4, rtol=1e-4)
    _KNOWN[model] = answer
    return answer
