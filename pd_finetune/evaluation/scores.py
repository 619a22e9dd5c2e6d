"""Cross-entropy and KL of held-out windows, from one forward of the layers an edit can change."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pd_finetune.evaluation.cross_entropy import cross_entropies, sequence_cross_entropies
from pd_finetune.evaluation.divergence import sequence_divergences
from pd_finetune.evaluation.held_out import HeldOut, clean_statistics, entering
from pd_finetune.evaluation.predictions import plain_embedding, row_parts
from pd_finetune.targets.changes import Change, baked
from pd_finetune.targets.load import Target
from pd_finetune.targets.upper import UpperLayers


@torch.no_grad()
def _scores(
    target: Target,
    text: HeldOut,
    inputs: Tensor,
    upper: UpperLayers,
    embedding: Float[Tensor, "vocab width"],
    batch: int,
    clean: tuple[Float[Tensor, "rows pos width"], Float[Tensor, "rows pos"]] | None = None,
) -> tuple[list[float], list[float]]:
    """Mean cross-entropy and, against `clean`, mean KL of each window, as the model is now.

    KL(p || q) = sum p ln p - h . (p E) + ln sum exp(h E^T), see `targets.partition`.
    """
    ces: list[float] = []
    kls: list[float] = []
    labels = text.ids[:, 1:].to(target.device)
    for part in row_parts(target, text.ids, batch):
        hidden = upper.hidden(inputs[part])
        ce, partition = cross_entropies(hidden, labels[part], embedding)
        ces += ce.double().mean(1).tolist()
        if clean is not None:
            mean_embedding, negentropy = clean[0][part], clean[1][part]
            kl = negentropy - (hidden * mean_embedding).sum(-1) + partition
            kls += kl.double().mean(1).tolist()
    return ces, kls


def edited_scores(
    target: Target,
    change: Change,
    texts: dict[str, HeldOut],
    preserve: list[str],
    upper: UpperLayers,
    batch: int,
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Cross-entropy of each window of all texts, and KL of each window of the preserved ones.

    Args:
        upper: from the lowest layer that the method edits, or from further below.
    """
    embedding = plain_embedding(target)
    edited, divergences = {}, {}
    for name, text in texts.items():
        if embedding is None:
            with baked(target.model, change):
                edited[name] = sequence_cross_entropies(target, text.ids, batch)
            if name in preserve:
                divergences[name] = sequence_divergences(target, change, text.ids, batch)
            continue
        inputs = entering(target, text, upper, batch)
        clean = None
        if name in preserve:
            clean = clean_statistics(target, text, upper, embedding, batch)
        with baked(target.model, change):
            edited[name], kls = _scores(target, text, inputs, upper, embedding, batch, clean)
        if clean is not None:
            divergences[name] = kls
    return edited, divergences
