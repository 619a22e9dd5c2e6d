"""The whole evaluation of one edit: before and after, on the same held-out windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pd_finetune.config import EvaluationConfig
from pd_finetune.errors import UserError
from pd_finetune.evaluation.base import cached, identity
from pd_finetune.evaluation.cross_entropy import (
    mean,
    paired_standard_error,
    sequence_cross_entropies,
)
from pd_finetune.evaluation.divergence import sequence_divergences
from pd_finetune.evaluation.rollouts import continuations
from pd_finetune.methods.protocol import Method
from pd_finetune.targets.load import Target
from pd_finetune.text.tokens import DocumentSource, token_stream, windows

OUT_OF_DOMAIN = "_ood"


@dataclass
class Evaluation:
    """Values before and after an edit; texts are named `de`, `en`, ..., `de_ood`, ...

    Args:
        base_sequences_nats, edited_sequences_nats: cross-entropy of each window, paired.
        kl_sequences_nats: KL(base || edited) per token of each window of protected text.
        rollouts: per language `prompt`, `before` and `after`.
    """

    base_sequences_nats: dict[str, list[float]]
    edited_sequences_nats: dict[str, list[float]]
    kl_sequences_nats: dict[str, list[float]]
    rollouts: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def base_ce_nats(self) -> dict[str, float]:
        return {name: mean(values) for name, values in self.base_sequences_nats.items()}

    @property
    def edited_ce_nats(self) -> dict[str, float]:
        return {name: mean(values) for name, values in self.edited_sequences_nats.items()}

    @property
    def damage_nats(self) -> dict[str, float]:
        """True mean differences, edited minus base."""
        base, edited = self.base_ce_nats, self.edited_ce_nats
        return {name: edited[name] - base[name] for name in base}

    @property
    def damage_standard_error_nats(self) -> dict[str, float]:
        """Over windows, paired."""
        return {
            name: paired_standard_error(values, self.edited_sequences_nats[name])
            for name, values in self.base_sequences_nats.items()
        }

    @property
    def kl_nats(self) -> dict[str, float]:
        """KL(base || edited) per token on each protected language."""
        return {name: mean(values) for name, values in self.kl_sequences_nats.items()}

    @property
    def protected_kl_nats(self) -> float:
        """Mean over protected languages (English alone by default)."""
        return mean(list(self.kl_nats.values()))


def held_out(
    target: Target, source: DocumentSource, languages: list[str], settings: EvaluationConfig
) -> dict[str, Int[Tensor, "rows window"]]:
    """Held-out windows of each language, and of its out-of-domain text where there is some.

    Raises:
        UserError: a window is longer than the target's context, or a language has no such text.
    """
    if settings.window > target.context:
        raise UserError(
            f"evaluation.window={settings.window}: the target's context is {target.context} tokens"
        )
    texts = {language: (language, settings.split) for language in languages}
    if settings.out_of_domain:
        texts |= {language + OUT_OF_DOMAIN: (language, "ood") for language in languages}
    result = {}
    for name, (language, split) in texts.items():
        stream = token_stream(target.tokenizer, source, language, split)
        rows = windows(stream, settings.rows, settings.window)
        if len(rows):
            result[name] = torch.from_numpy(rows)
        elif split != "ood":
            raise UserError(
                f"'{language}' has {len(stream)} tokens of {split} text, less than "
                f"evaluation.window={settings.window}: give a shorter window"
            )
    return result


def base_values(
    target: Target,
    source: DocumentSource,
    texts: dict[str, Int[Tensor, "rows window"]],
    settings: EvaluationConfig,
) -> dict[str, list[float]]:
    """Cross-entropy of each window under the unedited target, from the cache where it is there."""
    who = identity(target)
    values = {}
    for name, ids in texts.items():
        language = name.removesuffix(OUT_OF_DOMAIN)
        facts: dict[str, Any] = {
            "what": "cross_entropy",
            "text": source.fingerprint(language),
            "language": language,
            "split": "ood" if name != language else settings.split,
            "rows": settings.rows,
            "window": settings.window,
        }
        compute = partial(sequence_cross_entropies, target, ids, settings.batch)
        values[name] = cached(who, facts, compute)
    return values


def base_rollouts(target: Target, settings: EvaluationConfig) -> dict[str, str]:
    """Continuations by the unedited target, from the cache where they are there."""
    facts = {
        "what": "rollouts",
        "prompts": dict(settings.rollouts),
        "tokens": settings.rollout_tokens,
    }
    return dict(
        cached(
            identity(target),
            facts,
            lambda: continuations(target, dict(settings.rollouts), settings.rollout_tokens),
        )
    )


def evaluate(
    target: Target,
    method: Method,
    source: DocumentSource,
    languages: list[str],
    preserve: list[str],
    settings: EvaluationConfig,
) -> Evaluation:
    """Evaluate an edit on every language; the target must be unedited when this is called.

    Args:
        languages: all that are evaluated.
        preserve: those of them whose divergence is measured.
    """
    texts = held_out(target, source, languages, settings)
    base = base_values(target, source, texts, settings)
    before = base_rollouts(target, settings) if settings.rollouts else {}
    with method.edited():
        edited = {
            name: sequence_cross_entropies(target, ids, settings.batch)
            for name, ids in texts.items()
        }
        after = continuations(target, dict(settings.rollouts), settings.rollout_tokens)
    divergences = {
        language: sequence_divergences(target, method, texts[language], settings.batch)
        for language in preserve
    }
    rollouts = {
        language: {"prompt": prompt, "before": before[language], "after": after[language]}
        for language, prompt in settings.rollouts.items()
    }
    return Evaluation(base, edited, divergences, rollouts)
