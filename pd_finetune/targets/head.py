"""From a model's last states to cross-entropies and divergences, without ever holding all logits.

With h the hidden state, E the output embedding, b its bias and p the clean model's probabilities,

    CE(y) = lse(h E^T + b) - h . E_y - b_y
    KL(p || q) = sum p (ln p - b) - h . (p E) + lse(h E^T + b)

so that the clean side of the KL is one vector (p E) and one number a position. A model that does
more than this to its logits gives these as its states: then E is the identity.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pd_finetune.targets.partition import log_partition, partition_and_mean

_KNOWN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


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


def states_of(model: Any, **inputs: Tensor) -> Float[Tensor, "rows pos any"]:
    """Last hidden states of a forward where the head is linear, else its logits."""
    if has_linear_head(model):
        hidden: Tensor = model.base_model(**inputs, use_cache=False).last_hidden_state
        return hidden
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits


class Clean(NamedTuple):
    """What KL needs of the clean predictions p: the mean embedding p E, and sum p (ln p - b)."""

    mean: Float[Tensor, "*positions any"]
    negentropy_nats: Float[Tensor, "*positions"]


class Head(NamedTuple):
    """How states become logits: h E^T + b, or as they are without an embedding.

    Gradients reach the states alone.
    """

    embedding: Float[Tensor, "vocab width"] | None = None
    bias: Float[Tensor, " vocab"] | None = None

    @classmethod
    def of(cls, model: Any) -> Head:
        """The head of what `states_of` gives, in float32."""
        if not has_linear_head(model):
            return cls()
        head = model.get_output_embeddings()
        bias = None if head.bias is None else head.bias.detach().float()
        return cls(head.weight.detach().float(), bias)

    def partition(self, states: Float[Tensor, "*positions any"]) -> Float[Tensor, "*positions"]:
        """Log-sum-exp of the logits."""
        if self.embedding is None:
            return states.logsumexp(-1)
        flat = log_partition(states.flatten(0, -2), self.embedding, self.bias)
        return flat.view(states.shape[:-1])

    def cross_entropies(
        self,
        states: Float[Tensor, "*positions any"],
        labels: Int[Tensor, "*positions"],
        partition: Float[Tensor, "*positions"],
    ) -> Float[Tensor, "*positions"]:
        """-ln of the probability of each label, in nats."""
        if self.embedding is None:
            return partition - states.gather(-1, labels[..., None])[..., 0]
        scores = (states * self.embedding[labels]).sum(-1)
        return partition - (scores if self.bias is None else scores + self.bias[labels])

    @torch.no_grad()
    def clean(self, states: Float[Tensor, "*positions any"]) -> Clean:
        """The clean side of `divergences`, from states of the unedited model."""
        if self.embedding is None:
            mean, partition = states.softmax(-1), self.partition(states)
        else:
            flat = states.flatten(0, -2)
            partition, mean = partition_and_mean(flat, self.embedding, self.bias)
            mean, partition = mean.view_as(states), partition.view(states.shape[:-1])
        return Clean(mean, torch.linalg.vecdot(states, mean) - partition)

    def divergences(
        self,
        states: Float[Tensor, "*positions any"],
        clean: Clean,
        partition: Float[Tensor, "*positions"],
    ) -> Float[Tensor, "*positions"]:
        """KL(clean || these) in nats: to some 1e-6 in float32, and of no use in 16 bits.

        It is a difference of numbers about as large as ln(vocabulary).
        """
        return clean.negentropy_nats - (states * clean.mean).sum(-1) + partition
