"""The whole evaluation of one edit: before and after, on the same held-out windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pd_finetune.evaluation.base import cached, identity
from pd_finetune.evaluation.config import EvaluationConfig
from pd_finetune.evaluation.cross_entropy import (
    mean,
    paired_standard_error,
    sequence_cross_entropies,
)
from pd_finetune.evaluation.held_out import HeldOut, held_out
from pd_finetune.evaluation.rollouts import continuations
from pd_finetune.evaluation.scores import edited_scores
from pd_finetune.targets.changes import Change, baked, lowest_layer
from pd_finetune.targets.load import Target
from pd_finetune.targets.upper import UpperLayers
from pd_finetune.text.tokens import DocumentSource


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


def base_values(
    target: Target,
    texts: dict[str, HeldOut],
    settings: EvaluationConfig,
) -> dict[str, list[float]]:
    """Cross-entropy of each window under the unedited target, from the cache where it is there.

    The whole model is run, so that a value does not depend on the arm that asked for it first.
    """
    who = identity(target)
    values = {}
    for name, text in texts.items():
        fingerprint, language, split, rows, window = text.facts
        facts: dict[str, Any] = {
            "what": "cross_entropy",
            "text": fingerprint,
            "language": language,
            "split": split,
            "rows": rows,
            "window": window,
        }
        compute = partial(sequence_cross_entropies, target, text.ids, settings.batch)
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
    change: Change,
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
    upper = UpperLayers(target.model, lowest_layer(change))
    base = base_values(target, texts, settings)
    before = base_rollouts(target, settings) if settings.rollouts else {}
    edited, divergences = edited_scores(target, change, texts, preserve, upper, settings.batch)
    with baked(target.model, change):
        after = continuations(target, dict(settings.rollouts), settings.rollout_tokens)
    rollouts = {
        language: {"prompt": prompt, "before": before[language], "after": after[language]}
        for language, prompt in settings.rollouts.items()
    }
    return Evaluation(base, edited, divergences, rollouts)
