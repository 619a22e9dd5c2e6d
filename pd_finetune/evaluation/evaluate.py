"""The whole evaluation of one edit: before and after, on the same held-out windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, stdev

from pd_finetune.evaluation.base import cached, identity
from pd_finetune.evaluation.config import EvaluationConfig
from pd_finetune.evaluation.held_out import HeldOut, held_out
from pd_finetune.evaluation.sampling import continuations
from pd_finetune.targets.changes import Change, baked, lowest_layer
from pd_finetune.targets.load import Target
from pd_finetune.targets.predictions import Predictions, sequence_cross_entropies
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
        return {name: fmean(values) for name, values in self.base_sequences_nats.items()}

    @property
    def edited_ce_nats(self) -> dict[str, float]:
        return {name: fmean(values) for name, values in self.edited_sequences_nats.items()}

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
        return {name: fmean(values) for name, values in self.kl_sequences_nats.items()}

    @property
    def protected_kl_nats(self) -> float:
        """Mean over protected languages (English alone by default)."""
        return fmean(self.kl_nats.values())


def paired_standard_error(before: list[float], after: list[float]) -> float:
    """Standard error of the mean difference after - before over the same sequences; 0 for one."""
    differences = [b - a for a, b in zip(before, after, strict=True)]
    return stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else 0.0


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
        compute = partial(sequence_cross_entropies, target, text.ids, settings.batch)
        values[name] = cached(who, {"what": "cross_entropy", **text.facts}, compute)
    return values


def base_rollouts(target: Target, settings: EvaluationConfig) -> dict[str, str]:
    """Continuations by the unedited target, from the cache where they are there."""
    facts = {
        "what": "rollouts",
        "prompts": dict(settings.rollouts),
        "tokens": settings.rollout_tokens,
    }
    compute = partial(continuations, target, dict(settings.rollouts), settings.rollout_tokens)
    return dict(cached(identity(target), facts, compute))


def edited_values(
    target: Target,
    change: Change,
    texts: dict[str, HeldOut],
    preserve: list[str],
    settings: EvaluationConfig,
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Cross-entropy of each window of all texts, and KL of each window of the preserved ones."""
    predictions = Predictions(target, lowest_layer(change), settings.batch)
    ces: dict[str, list[float]] = {name: [] for name in texts}
    kls: dict[str, list[float]] = {name: [] for name in preserve}
    for name, text in texts.items():
        for part in predictions.portions(text.ids):
            ids = text.ids[part]
            prepared = predictions.prepared(ids[:, :-1], clean=name in preserve)
            with baked(target.model, change):
                ce, kl = predictions.scores(prepared, ids[:, 1:])
            ces[name] += ce
            if name in preserve:
                kls[name] += kl
    return ces, kls


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
    base = base_values(target, texts, settings)
    before = base_rollouts(target, settings) if settings.rollouts else {}
    edited, divergences = edited_values(target, change, texts, preserve, settings)
    with baked(target.model, change):
        after = continuations(target, dict(settings.rollouts), settings.rollout_tokens)
    rollouts = {
        language: {"prompt": prompt, "before": before[language], "after": after[language]}
        for language, prompt in settings.rollouts.items()
    }
    return Evaluation(base, edited, divergences, rollouts)
