"""Held-out windows of each language: in a sweep every run is evaluated on the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pd_finetune.errors import UserError
from pd_finetune.evaluation.config import EvaluationConfig
from pd_finetune.targets.load import Target
from pd_finetune.text.tokens import DocumentSource, token_stream, windows

OUT_OF_DOMAIN = "_ood"


@dataclass
class HeldOut:
    """Windows of one language and split.

    Args:
        ids: [rows, window], on the CPU.
        facts: what decides them.
    """

    ids: Int[Tensor, "rows window"]
    facts: dict[str, Any]


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
            facts = {"text": source.fingerprint(language), "language": language, "split": split}
            sizes = {"rows": count, "window": settings.window}
            result[name] = HeldOut(torch.from_numpy(ids), facts | sizes)
        elif split != "ood":
            raise UserError(
                f"'{language}' has {len(stream)} tokens of {split} text, less than "
                f"evaluation.window={settings.window}: give a shorter window"
            )
    return result
