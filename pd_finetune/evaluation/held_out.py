"""Held-out windows, and what the clean target makes of them: kept for the next edit.

In a sweep every run is evaluated on the same windows. What enters the lowest edited layer, and the
clean side of the KL, do not depend on the edit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pd_finetune.errors import UserError
from pd_finetune.evaluation.config import EvaluationConfig
from pd_finetune.evaluation.predictions import row_parts
from pd_finetune.targets.kept import kept
from pd_finetune.targets.load import Target
from pd_finetune.targets.partition import mean_embedding_and_negentropy
from pd_finetune.targets.upper import UpperLayers
from pd_finetune.text.tokens import DocumentSource, token_stream, windows

OUT_OF_DOMAIN = "_ood"


@dataclass
class HeldOut:
    """Windows of one language and split.

    Args:
        ids: [rows, window], on the CPU.
        facts: what decides them, as a key.
    """

    ids: Int[Tensor, "rows window"]
    facts: tuple[str | int, ...] = ()


def held_out(
    target: Target, source: DocumentSource, languages: list[str], settings: EvaluationConfig
) -> dict[str, HeldOut]:
    """Held-out windows of each language, and of its out-of-domain text where there is some.

    Raises:
        UserError: a window is longer than the target's context, or a language has no such text.
    """
    if settings.window > target.context:
        raise UserError(
            f"evaluation.window={settings.window}: the target's context is {target.context} tokens"
        )
    texts = {language: (language, settings.split, settings.rows) for language in languages}
    if settings.out_of_domain:
        rows = min(settings.rows, settings.out_of_domain_rows)
        texts |= {language + OUT_OF_DOMAIN: (language, "ood", rows) for language in languages}
    result = {}
    for name, (language, split, count) in texts.items():
        stream = token_stream(target.tokenizer, source, language, split)
        ids = windows(stream, count, settings.window)
        if len(ids):
            facts = (source.fingerprint(language), language, split, count, settings.window)
            result[name] = HeldOut(torch.from_numpy(ids), facts)
        elif split != "ood":
            raise UserError(
                f"'{language}' has {len(stream)} tokens of {split} text, less than "
                f"evaluation.window={settings.window}: give a shorter window"
            )
    return result


def entering(target: Target, text: HeldOut, upper: UpperLayers, batch: int) -> Tensor:
    """What `upper` takes for all but the last token of each window; kept where there is room."""

    def compute() -> tuple[Tensor, ...]:
        parts = row_parts(target, text.ids, batch)
        return (torch.cat([upper.enter(text.ids[p, :-1].to(target.device)) for p in parts]),)

    if upper.start is None:
        return text.ids[:, :-1].to(target.device)
    return kept(target, ("entering", upper.start, batch, text.facts), compute)[0]


def clean_statistics(
    target: Target,
    text: HeldOut,
    upper: UpperLayers,
    embedding: Float[Tensor, "vocab width"],
    batch: int,
) -> tuple[Float[Tensor, "rows pos width"], Float[Tensor, "rows pos"]]:
    """Mean output embedding and sum p ln p under the clean predictions p of all windows."""

    @torch.no_grad()
    def compute() -> tuple[Tensor, ...]:
        inputs = entering(target, text, upper, batch)
        pairs = []
        for part in row_parts(target, text.ids, batch):
            hidden = upper.hidden(inputs[part])
            mean, negentropy = mean_embedding_and_negentropy(hidden.flatten(0, 1), embedding)
            pairs.append((mean.view_as(hidden), negentropy.view(hidden.shape[:2])))
        return torch.cat([mean for mean, _ in pairs]), torch.cat([n for _, n in pairs])

    mean, negentropy = kept(target, ("clean", upper.start, batch, text.facts), compute)
    return mean, negentropy
