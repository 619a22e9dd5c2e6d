"""Made-up result records in the shape of the write-up's comparison."""

from typing import Any

import numpy as np

from pd_finetune.records.record import Hashes, RunRecord, TargetTokens, Values

CHANCE, BASE_DE = 8.318, 3.52
LANGUAGES = ("de", "en", "fr", "es", "it", "code")
# arm: subcomponents that it scales, half-way budget, damage of en fr es it code at a full edit
ARMS: dict[str, tuple[int, float, list[float]]] = {
    "one_scalar": (1, 0.8, [0.03, 0.05, 0.04, 0.35, 0.01]),
    "top16": (16, 0.6, [0.12, 0.9, 0.7, 0.8, 0.1]),
    "lora_r1": (0, 6.0, [0.15, 1.4, 1.1, 1.3, 0.2]),
    "lora_r4": (0, 4.0, [0.13, 1.5, 1.2, 1.4, 0]),
    "localized_lora": (0, 5.0, [0.08, 0.5, 0.4, 0.6, -0.02]),
}
LABELS = ["one scalar", "top 16", "LoRA r1", "LoRA r4", "localised LoRA"]


def record(arm: str = "one_scalar", budget: int = 4, seed: int = 0, **changes: Any) -> RunRecord:
    """One run; more budget destroys more and damages more, with noise by seed."""
    count, half, damages = ARMS[arm]
    rng = np.random.default_rng([list(ARMS).index(arm), budget, seed])
    done = 1 - 0.5 ** (budget / half)
    rise = (CHANCE - BASE_DE) * done * (1 + 0.03 * rng.normal())
    values = [rise, *(np.array(damages) * done * (1 + 0.15 * rng.normal(size=5)))]
    damage = {name: float(value) for name, value in zip(LANGUAGES, values, strict=True)}
    damage["de_ood"] = 0.8 * damage["de"]
    base = {name: 3.4 + 0.1 * n for n, name in enumerate(damage)} | {"de": BASE_DE}
    edited = {name: base[name] + damage[name] for name in damage}
    keys = [f"h.3.attn.v_proj:{5 + n}" for n in range(count)]
    fields: dict[str, Any] = {
        "status": "finished",
        "config": {
            "model": {"folder": "embedded", "dtype": "float32"},
            "method": {"lr": 0.3, "kl_weight": 3.0},
            "token_budget": {"sequence_tokens": 64, "min_paragraph_tokens": 16, "grid": [1]},
            "evaluation": {"split": "test", "rows": 64, "window": 128, "out_of_domain": True},
            "budget": budget,
            "seed": seed,
        },
        "config_hash": f"{arm}-{budget}-{seed}",
        "method": "",
        "arm": arm,
        "budget": budget,
        "seed": seed,
        "target_language": "de",
        "chance_nats": CHANCE,
        "protected_languages": ["en"],
        "base": Values(base),
        "edited": Values(edited),
        "damage_nats": damage,
        "to_chance_nats": CHANCE - edited["de"],
        "english_kl_nats": damage["en"] / 2,
        "kl_nats": {"en": damage["en"] / 2},
        "selection": keys,
        "masks": {key: 1 - 2.1 * done + 0.1 * float(rng.normal()) for key in keys},
        "trainable_parameters": count or 9216,
        "target_tokens": TargetTokens(training=budget, labels=1000 * (count == 1)),
        "hashes": Hashes("a" * 64, "b" * 64, {name: name * 8 for name in LANGUAGES}),
    }
    return RunRecord(**(fields | changes))


def records(
    arms: tuple[str, ...] = tuple(ARMS),
    budgets: tuple[int, ...] = (1, 4, 16, 64),
    seeds: int = 5,
) -> list[RunRecord]:
    """Every arm at every budget with every seed."""
    return [record(arm, b, seed) for arm in arms for b in budgets for seed in range(seeds)]
