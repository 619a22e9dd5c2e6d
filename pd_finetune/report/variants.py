"""The sections on protecting more languages, other target languages, other decompositions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pd_finetune.plots.tables import markdown
from pd_finetune.report.headline import headline_table, interval
from pd_finetune.results.arms import LORAS, MASKS, arms_of
from pd_finetune.results.intervals import Estimate, by_seed, paired
from pd_finetune.results.reached import comparison_budgets, tokens_text, tokens_to_target
from pd_finetune.results.summary import damage_languages, summarise
from pd_finetune.results.variants import Variant
from pd_finetune.text.languages import LANGUAGE_NAMES


def _names(languages: Sequence[str]) -> str:
    return ", ".join(LANGUAGE_NAMES.get(name, name) for name in languages)


def _text(found: Estimate | None) -> str:
    return "–" if found is None else interval(found.value, found.low, found.high)


def _others(variant: Variant) -> list[str]:
    """Languages that are neither the target nor protected in the main runs."""
    spared = {variant.target, *str(variant.main["protected_languages"].iloc[0]).split()}
    return [name for name in damage_languages(variant.frame) if name not in {*spared, "code"}]


def _change(variant: Variant) -> pd.DataFrame:
    """Variant minus main runs of the same arm, budget and seed."""
    kept = str(variant.main["protected_languages"].iloc[0]).split()
    measures = {
        "short of chance": ["to_chance_nats"],
        f"damage {', '.join(kept)}": [f"damage_{name}_nats" for name in kept],
        f"damage {', '.join(_others(variant))}": [
            f"damage_{name}_nats" for name in _others(variant)
        ],
    }
    measures = {column: names for column, names in measures.items() if names}
    main, own = (
        frame.assign(**{column: frame[names].mean(axis=1) for column, names in measures.items()})
        for frame in (variant.main, variant.frame)
    )
    rows = []
    for arm in arms_of(own):
        for budget in sorted(set(own[own["arm"] == arm]["budget"])):
            row: dict[str, object] = {"arm": arm, "budget": f"{budget:,}"}
            for name in measures:
                found = paired(by_seed(own, arm, budget, name), by_seed(main, arm, budget, name))
                row[name] = _text(found)
            rows.append(row)
    return pd.DataFrame(rows)


def _advantage(variant: Variant) -> str:
    """One line: is the best mask still ahead of the LoRAs, where each is compared?"""
    frame = variant.frame.assign(
        kept=variant.frame[[f"damage_{name}_nats" for name in variant.protected]].mean(axis=1)
    )
    places: Any = comparison_budgets(frame).set_index("arm")
    lines = []
    for mask in [arm for arm in MASKS if arm in places.index]:
        for lora in [arm for arm in LORAS if arm in places.index]:
            pairs = [by_seed(frame, arm, places.loc[arm, "budget"], "kept") for arm in (mask, lora)]
            both = places.loc[mask, "at_chance"] and places.loc[lora, "at_chance"]
            starred = "" if both else ", not both of them at chance"
            lines.append(
                f"- {mask} at {places.loc[mask, 'budget']:,} tokens minus {lora} at "
                f"{places.loc[lora, 'budget']:,}{starred}: {_text(paired(*pairs))}\n"
            )
    return "".join(lines)


def _seeds(variant: Variant) -> str:
    count = int(variant.frame.groupby(["arm", "budget"])["seed"].nunique().min())
    return f"{count} seed{'' if count == 1 else 's'}"


def _kept(variant: Variant) -> str:
    """Of `_advantage`, with the question that it answers; nothing where there are no such arms."""
    lines = _advantage(variant)
    asked = (
        "Does the masks' advantage remain? Mean damage of the protected languages, paired by seed, "
        "each arm where it is compared (below 0: the mask harms less):\n\n"
    )
    return f"\n{asked}{lines}" if lines else ""


def protecting_more(variants: Sequence[Variant]) -> str:
    """Tables with more languages under the KL term, and the change against the main runs."""
    parts = []
    for variant in variants:
        parts.append(
            f"The same grid with {_names(variant.protected)} protected, {_seeds(variant)}; "
            "settings as tuned for the main runs; a step sees as much protected text as there, "
            "shared by the languages.\n\n"
            f"{markdown(headline_table(variant.frame, summarise(variant.frame)))}\n"
            f"The main runs ({_names(str(variant.main['protected_languages'].iloc[0]).split())} "
            "protected) at the same budgets and seeds:\n\n"
            f"{markdown(headline_table(variant.main, summarise(variant.main)))}\n"
            "Change by protecting more, paired by seed (median [95 % interval], nats):\n\n"
            f"{markdown(_change(variant))}"
            f"{_kept(variant)}"
        )
    return "\n".join(parts)


def target_languages(variants: Sequence[Variant]) -> str:
    """One table of all target languages, the main one first, cut to the runs that all have."""
    return (
        "`languages.target=fr` and so on. The decomposition is the same, and no setting was tuned "
        "anew: rates and KL weights are those found with the main target. " + _together(variants)
    )


def decompositions(variants: Sequence[Variant]) -> str:
    """One table of all decompositions, the main one first, cut to the runs that all have."""
    return (
        "`decomposition.folder=<another>`: the same target decomposed by another seed or recipe, "
        "its own harvest, labels and selection. No setting was tuned anew: rates and KL "
        "weights are those found with the main one. " + _together(variants)
    )


def _together(variants: Sequence[Variant]) -> str:
    """The runs that the main ones and all variants have, a row per variant and arm."""
    keys = ["arm", "budget", "seed"]
    common = variants[0].main[keys]
    for variant in variants:
        common = common.merge(variant.frame[keys], on=keys)
    if common.empty:
        return "No arm, budget and seed was run for all of them.\n"
    frames = [variants[0].main, *(variant.frame for variant in variants)]
    by = "decomposition" if not variants[0].same_decomposition else "target"
    rows = [row for frame in frames for row in _rows(common.merge(frame, on=keys), by)]
    budgets = ", ".join(f"{value:,}" for value in sorted(set(common["budget"])))
    seeds = int(common.groupby(["arm", "budget"])["seed"].nunique().min())
    return (
        f"Budgets of {budgets} tokens, {seeds} seed{'' if seeds == 1 else 's'}; read as the table "
        "on top. Protected: the largest damage of these languages; others: mean damage of the "
        "languages that are neither.\n\n"
        f"{markdown(pd.DataFrame(rows).fillna('–'))}"
    )


def _rows(frame: pd.DataFrame, by: str) -> list[dict[str, str]]:
    """A row per arm, for one target language or decomposition."""
    first = frame.iloc[0]
    summary: Any = summarise(frame).set_index(["arm", "budget", "measure"])
    reached: Any = tokens_to_target(frame).set_index("arm")
    rows = []
    for place in comparison_budgets(frame).itertuples():
        own = frame[frame["arm"] == place.arm]
        row = {
            by: (
                _names([str(first["target_language"])])
                if by == "target"
                else Path(str(first["decomposition"])).name
            ),
            "protected": str(first["protected_languages"]),
            "arm": str(place.arm),
            "selected": ", ".join(own["selection"].iloc[0]) if place.arm == MASKS[0] else "",
            "tokens to target": tokens_text(reached.loc[place.arm]),
            "budget": f"{place.budget:,}{'' if place.at_chance else '*'}",
        }
        columns = {
            "to chance": "to_chance_nats",
            "damage, protected": "protected_damage_nats",
            "others": "off_target_damage_nats",
            "code": "damage_code_nats",
        }
        for column, measure in columns.items():
            if measure in frame:
                found = summary.loc[(place.arm, place.budget, measure)]
                row[column] = interval(found["median"], found["median_low"], found["median_high"])
        rows.append(row)
    return rows
