"""Whether a model's logits are its last hidden states times its output embedding, and no more."""

from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn

_KNOWN: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()


def has_linear_head(model: Any) -> bool:
    """True where logits are `hidden @ E^T` (plus a bias), without soft cap or scale.

    Found by one forward of two tokens, once per model; Granite, Gemma and Cohere do more.
    """
    known = _KNOWN.get(model)
    if known is not None:
        return known
    head = model.get_output_embeddings()
    answer = False
    if isinstance(head, nn.Linear):
        ids = torch.arange(2, device=model.device)[None]
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits.float()
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            mine = F.linear(hidden.to(head.weight.dtype), head.weight, head.bias).float()
        answer = mine.shape == logits.shape and torch.allclose(mine, logits, atol=1e-3, rtol=1e-3)
    _KNOWN[model] = answer
    return answer
