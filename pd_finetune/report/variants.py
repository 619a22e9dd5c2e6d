"""The sections on protecting more languages, and on other target languages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pd_finetune.plots.tables import markdown
from pd_finetune.report.headline import headline_table, interval
from pd_finetune.results.arms import LORAS, MASKS, arms_of
from pd_finetune.results.intervals import Estimate, by_seed, paired
from pd_finetune.results.reached import comparison_budgets, tokens_text, tokens_to_target
from pd_finetune.results.summary import summarise
from pd_finetune.results.variants import Variant
from pd_finetune.text.languages import LANGUAGE_NAMES


def _names(languages: Sequence[str]) -> str:
    return ", ".join(LANGUAGE_NAMES.get(name, name) for name in languages)


def _text(found: Estimate | None) -> str:
    return "–" if found is None else interval(found.value, found.low, found.high)


def _change(variant: Variant) -> pd.DataFrame:
    """Variant minus main runs of the same arm, budget and seed."""
    measures = ("to_chance_nats", "damage_en_nats", "off_target")
    frames = []
    for frame in (variant.main, variant.frame):
        spared = {variant.target, "en", "code"}
        columns = [
            str(name)
            for name in frame.columns
            if str(name).startswith("damage_")
            and not str(name).endswith("_ood_nats")
            and str(name).split("_")[1] not in spared
        ]
        frames.append(frame.assign(off_target=frame[columns].mean(axis=1)))
    main, own = frames
    rows = []
    for arm in arms_of(own):
        for budget in sorted(set(own[own["arm"] == arm]["budget"])):
            row: dict[str, object] = {"arm": arm, "budget": f"{budget:,}"}
            for name in measures:
                found = paired(by_seed(own, arm, budget, name), by_seed(main, arm, budget, name))
                row[name] = _text(found)
            rows.append(row)
    return pd.DataFrame(rows).rename(
        columns={
            "to_chance_nats": "short of chance",
            "damage_en_nats": "damage en",
            "off_target": "mean damage of other languages",
        }
    )


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


def protecting_more(variants: Sequence[Variant]) -> str:
    """Tables with more languages under the KL term, and the change against the main runs."""
    parts = []
    for variant in variants:
        seeds = variant.frame.groupby(["arm", "budget"])["seed"].nunique().min()
        parts.append(
            f"The same grid with {_names(variant.protected)} protected, {seeds} seeds; settings as "
            "tuned for the main runs; a step sees as much protected text as there, shared by the "
            "languages.\n\n"
            f"{markdown(headline_table(variant.frame, summarise(variant.frame)))}\n"
            f"The main runs ({_names(str(variant.main['protected_languages'].iloc[0]).split())} "
            "protected) at the same budgets and seeds:\n\n"
            f"{markdown(headline_table(variant.main, summarise(variant.main)))}\n"
            "Change by protecting more, paired by seed (median [95 % interval], nats):\n\n"
            f"{markdown(_change(variant))}\n"
            "Does the masks' advantage remain? Mean damage of the protected languages, paired by "
            "seed, each arm where it is compared (below 0: the mask harms less):\n\n"
            f"{_advantage(variant)}"
        )
    return "\n".join(parts)


def target_languages(variants: Sequence[Variant]) -> str:
    """One table of all target languages, the main one first."""
    frames = [variants[0].main, *(variant.frame for variant in variants)]
    rows = []
    for frame in frames:
        summary: Any = summarise(frame).set_index(["arm", "budget", "measure"])
        reached: Any = tokens_to_target(frame).set_index("arm")
        for place in comparison_budgets(frame).itertuples():
            own = frame[frame["arm"] == place.arm]
            row = {
                "target": LANGUAGE_NAMES.get(frame["target_language"].iloc[0], "?"),
                "arm": place.arm,
                "selected": ", ".join(own["selection"].iloc[0]) if place.arm == MASKS[0] else "",
                "tokens to target": tokens_text(reached.loc[place.arm]),
                "budget": f"{place.budget:,}{'' if place.at_chance else '*'}",
            }
            columns = {
                "to chance": "to_chance_nats",
                "damage en": "damage_en_nats",
                "other languages": "off_target_damage_nats",
                "code": "damage_code_nats",
            }
            for column, measure in columns.items():
                found = summary.loc[(place.arm, place.budget, measure)]
                row[column] = interval(found["median"], found["median_low"], found["median_high"])
            rows.append(row)
    budgets = ", ".join(f"{value:,}" for value in sorted(set(variants[0].frame["budget"])))
    seeds = min(v.frame.groupby(["arm", "budget"])["seed"].nunique().min() for v in variants)
    return (
        f"`languages.target=fr` and so on, English protected, budgets of {budgets} tokens, {seeds} "
        "seeds; the decomposition is the same, and no setting was tuned anew: rates and KL weights "
        "are those found with the main target. Read as the table on top; other languages: mean "
        "damage of those that are neither target nor protected.\n\n"
        f"{markdown(pd.DataFrame(rows))}"
    )
