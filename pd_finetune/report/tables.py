"""The tables of the page, as frames whose cells are what people read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pd_finetune.results import break_even as even
from pd_finetune.results import verdicts as rules
from pd_finetune.results.arms import arms_of, label
from pd_finetune.results.claims import verdicts
from pd_finetune.results.comparison import comparison_budgets, tokens_text, tokens_to_target
from pd_finetune.results.costs import HERE, PER_EDIT
from pd_finetune.results.frame import RUN, damage_languages
from pd_finetune.results.rollouts import UNEDITED, scores
from pd_finetune.results.summary import summarise
from pd_finetune.results.variants import Variant, changes
from pd_finetune.results.verdicts import Part
from pd_finetune.tables import interval
from pd_finetune.text.languages import LANGUAGE_NAMES

WORDS = yaml.safe_load(
    Path(__file__).with_name("templates").joinpath("words.yaml").read_text("utf-8")
)
_LONGEST = 220  # letters of a continuation that is shown


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """Arms by their labels."""
    return table.assign(arm=table["arm"].map(label))


# ------------------------------------------------------------------ arms and budgets


def _compared(
    frame: pd.DataFrame, summary: pd.DataFrame, measures: dict[str, str]
) -> list[dict[str, str]]:
    """A row per arm at the budget where it is compared; one never at chance has an asterisk.

    Args:
        measures: measure to the name of its column, which has medians with intervals.
    """
    reached: Any = tokens_to_target(frame).set_index("arm")
    medians: Any = summary.set_index(["arm", "budget", "measure"])
    rows = []
    place: Any
    for place in comparison_budgets(frame).itertuples():
        row = {
            "arm": label(place.arm),
            "tokens to target": tokens_text(reached.loc[place.arm]),
            "budget": f"{place.budget:,}{'' if place.at_chance else '*'}",
        }
        for measure, column in measures.items():
            found = medians.loc[(place.arm, place.budget, measure)]
            row[column] = interval(found["median"], found["median_low"], found["median_high"])
        rows.append(row)
    return rows


def headline_table(frame: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """One row per arm: tokens to target, and at its budget gap to chance and damage by language.

    Medians over seeds with 95 % intervals, in nats per token. A budget at which the arm is not at
    chance, its best, is marked by an asterisk.
    """
    measures = {"to_chance_nats": f"{frame['target_language'].iloc[0]} to chance"}
    measures |= {f"damage_{name}_nats": name for name in damage_languages(frame)}
    table = pd.DataFrame(_compared(frame, summary, measures))
    sizes = frame.groupby("arm")["trainable_parameters"].first()
    parameters = [str(sizes[arm]) for arm in arms_of(frame["arm"])]
    table.insert(1, "parameters", parameters)
    return table


def every_budget(frame: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """Arm by budget: target to chance and damage per language, as `median [interval]`, in nats."""
    shown = {"to_chance_nats": f"{frame['target_language'].iloc[0]} to chance"}
    shown |= {f"damage_{name}_nats": f"damage {name}" for name in damage_languages(frame)}
    rows = []
    for (arm, budget), own in summary.groupby(["arm", "budget"], sort=False):
        found: Any = own.set_index("measure")
        row: dict[str, Any] = {
            "arm": label(str(arm)),
            "budget": budget,
            "seeds": int(own["seeds"].iloc[0]),
        }
        for measure, column in shown.items():
            median, low, high = found.loc[measure, ["median", "median_low", "median_high"]]
            row[column] = f"{median:.3f}"
            if not math.isnan(low):
                row[column] += f" [{low:.3f}, {high:.3f}]"
        rows.append(row)
    return pd.DataFrame(rows)


def tokens_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`tokens_to_target`, arms by their labels."""
    return _named(tokens_to_target(frame)).drop(columns="intervals")


def spent_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm: trainable parameters, and target-language tokens spent beside the budget."""
    names = ["trainable_parameters", "selection_tokens", "labels_tokens", "tuning_tokens"]
    return _named(frame.groupby("arm")[names].max().loc[list(arms_of(frame["arm"]))].reset_index())


# ------------------------------------------------------------------ claims


def verdict_table(parts: Sequence[Part]) -> pd.DataFrame:
    """Claim, statement, overall verdict (in bold Markdown) and the number of parts that hold."""
    rows = []
    for name, verdict in verdicts(parts).items():
        own = [part.verdict for part in parts if part.claim == name]
        testable = [found for found in own if found != rules.NOT_TESTABLE]
        counts = f"{own.count(rules.REPRODUCED)} of {len(testable)}"
        rows.append((name, WORDS["claims"][name], f"**{verdict}**", counts))
    return pd.DataFrame(rows, columns=["", "claim", "verdict", "parts reproduced"])


def part_table(parts: Sequence[Part]) -> pd.DataFrame:
    """Every part with its number, interval, rule and verdict."""
    rows = []
    for part in parts:
        measured = part.text or interval(part.value, part.low, part.high, 3)
        rows.append((part.claim, part.what, measured, part.rule, part.verdict))
    return pd.DataFrame(rows, columns=["", "measured", "value [interval]", "rule", "verdict"])


# ------------------------------------------------------------------ costs


def amount(value: float) -> str:
    """A number at a glance: `1,024`, `2.1e14`, a dash where it is unknown."""
    if math.isnan(value):
        return "–"
    if value < 100 and value != int(value):
        return f"{value:.1f}"
    return f"{value:,.0f}" if value < 1e7 else f"{value:.1e}".replace("e+", "e")


def cost_table(costs: pd.DataFrame, target: str) -> pd.DataFrame:
    """Every cost of `results.costs` in a row; edits of all budgets of an arm in one."""
    columns = {"tokens": "text tokens", "target_tokens": f"of them {target}", "flops": "FLOPs"}
    columns["seconds"] = "seconds"
    rows = []
    for (model, stage, arm), own in costs.groupby(["model", "stage", "arm"], sort=False):
        row = {"of": model, "stage": f"{stage}, {label(str(arm))}" if arm else stage}
        row["counted"] = own["counted"].iloc[0]
        for name, column in columns.items():
            ends = [amount(float(end)) for end in (own[name].min(), own[name].max())]
            row[column] = " to ".join(dict.fromkeys(ends))
        notes = [note for note in own["note"].unique() if note]
        if row["counted"] == PER_EDIT and model == HERE:
            span = " to ".join(f"{end:,}" for end in sorted({*own["budget"].iloc[[0, -1]]}))
            notes.insert(0, f"{span} {target} tokens")
        rows.append(row | {"note": "; ".join(notes)})
    return pd.DataFrame(rows)


def break_even_table(table: pd.DataFrame) -> pd.DataFrame:
    """Per pair of arms and criterion: the budgets, and the edits to break even by currency."""

    def needed(row: Any) -> str:
        if math.isnan(row["edits"]):
            return "not comparable"
        never = "never: its edit is no dearer"
        return never if math.isinf(row["edits"]) else f"{row['edits']:,.0f}"

    units = {"target_tokens": "tokens", "flops": "FLOPs", "seconds": "seconds"}
    rows = []
    key: Any
    for key, own in table.groupby(list(even.COLUMNS[:5]), sort=False, dropna=False):
        arm, at, rival, budget, off_target = key
        other = "at no budget" if pd.isna(budget) else f"{int(budget):,}"
        row = {"arm": f"{label(arm)}, {at:,}", "beside": f"{label(rival)}, {other}"}
        row["damage counted"] = "protected and other languages" if off_target else "protected"
        by_currency = own.set_index("currency")
        rows.append(row | {f"by {units[name]}": needed(by_currency.loc[name]) for name in units})
    return pd.DataFrame(rows)


# ------------------------------------------------------------------ rollouts


def _order(rollouts: pd.DataFrame) -> list[str]:
    present = set(rollouts["arm"])
    return [name for name in (UNEDITED, *arms_of(present - {UNEDITED})) if name in present]


def score_table(rollouts: pd.DataFrame, target: str) -> pd.DataFrame:
    """Per arm and mode: share of continuations in their prompt's language, and repeated 4-grams."""
    table = scores(rollouts, target)
    languages = list(dict.fromkeys(rollouts["language"]))
    repeated = {target: [target], "others": [name for name in languages if name != target]}
    rows = []
    for arm in _order(rollouts):
        for mode, own in table[table["arm"] == arm].groupby("mode"):
            own = own.set_index("language").reindex(languages)
            first = own.dropna(subset="runs").iloc[0]
            row = {"arm": label(arm), "mode": mode, "runs": str(int(first["runs"]))}
            row["budget"] = "–" if pd.isna(first["budget"]) else f"{int(first['budget']):,}"
            for name in languages:
                row[f"{name} → {name}"] = f"{own.loc[name, 'as_prompt']:.2f}"
            for title, names in repeated.items():
                row[f"repeated, {title}"] = f"{own.loc[names, 'repetition'].mean():.2f}"
            rows.append(row)
    table = pd.DataFrame(rows)
    return table[["arm", "budget", *table.columns.drop(["arm", "budget"])]]


def examples(rollouts: pd.DataFrame) -> Iterable[tuple[str, str, pd.DataFrame]]:
    """Language, prompt and every arm's continuation (lowest seed): two greedy ones, one sampled."""
    for language in dict.fromkeys(rollouts["language"]):
        for mode, count in (("greedy", 2), ("sampled", 1)):
            own = rollouts[(rollouts["language"] == language) & (rollouts["mode"] == mode)]
            for prompt in list(dict.fromkeys(own["prompt"]))[:count]:
                here = own[(own["prompt"] == prompt) & (own["sample"] == 0)].sort_values("seed")
                texts = here.drop_duplicates("arm").set_index("arm")["continuation"]
                rows = [(label(arm), _cut(texts[arm])) for arm in _order(rollouts) if arm in texts]
                yield language, prompt, pd.DataFrame(rows, columns=["", mode])


def _cut(text: str) -> str:
    flat = " ".join(str(text).split()) or "(end of text at once)"
    return flat if len(flat) <= _LONGEST else flat[: _LONGEST - 1] + "…"


# ------------------------------------------------------------------ variants


def variants_tables(main: pd.DataFrame, variants: Sequence[Variant]) -> list[pd.DataFrame]:
    """A row per run-set and arm, the main runs first; a table for those that have the same runs."""
    groups: dict[frozenset[Any], list[Variant]] = {}
    for variant in variants:
        runs = frozenset(variant.frame[RUN].itertuples(index=False, name=None))
        groups.setdefault(runs, []).append(variant)
    found = []
    for group in groups.values():
        rows = _variant_rows("this one", group[0].main)
        for variant in group:
            rows += _variant_rows(f"[{variant.name}](variants/{variant.name}.md)", variant.frame)
        found.append(pd.DataFrame(rows))
    return found


def _variant_rows(link: str, frame: pd.DataFrame) -> list[dict[str, str]]:
    first = frame.iloc[0]
    facts = {
        "page": link,
        "target": LANGUAGE_NAMES.get(first["target_language"], first["target_language"]),
        "protected": first["protected_languages"],
        "decomposition": Path(str(first["decomposition"])).name,
    }
    measures = {
        "to_chance_nats": "to chance",
        "protected_damage_nats": "damage, protected",
        "off_target_damage_nats": "others",
    }
    rows = _compared(frame, summarise(frame), measures)
    for row, arm in zip(rows, arms_of(frame["arm"]), strict=True):
        masks = frame.loc[frame["arm"] == arm, "masks"].iloc[0]
        row["scaled"] = next(iter(masks)) if len(masks) == 1 else "–"
    return [facts | row for row in rows]


def changes_table(variant: Variant) -> pd.DataFrame:
    """Arm by budget: the variant less the main runs, paired by seed."""
    rows: dict[tuple[str, int], dict[str, str]] = {}
    found: Any
    for found in changes(variant).itertuples():
        row = rows.setdefault((found.arm, found.budget), {"arm": label(found.arm)})
        row["budget"] = f"{found.budget:,}"
        row[found.measure] = interval(found.value, found.low, found.high)
    return pd.DataFrame(list(rows.values()))
