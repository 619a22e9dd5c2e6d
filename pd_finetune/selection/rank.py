"""Choosing the subcomponents that an edit may scale. Each selector is named by a config.

All take the harvest (None where there is none), the decomposition, the target language and the
run's seed, and give a `Selection`; nothing is chosen silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.errors import UserError
from pd_finetune.selection.labels import EXCLUSIVE_MEAN_CI, LIVE_MEAN_CI
from pd_finetune.selection.store import Harvest
from pd_finetune.targets.keys import SubcomponentKey

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 5  # candidates that an error names
_CHOICES = ("effect", "price", "share", "only")
_KEPT = 32  # candidates that a selection keeps, at least


@dataclass
class Selection:
    """Chosen subcomponents, best first.

    Args:
        reason: one sentence on how they were chosen.
        candidates: rows of the harvest's table that were in the running, with `share` (of the mean
            CI by language, on the target language) and `chosen`.
        selection_tokens: target-language tokens that the harvest behind the choice read.
        by_label: whether they were read for labels.
    """

    keys: list[SubcomponentKey]
    reason: str
    candidates: pd.DataFrame
    selection_tokens: int
    by_label: bool = False


def _table(
    harvest: Harvest | None, decomposition: Decomposition, language: str, what: str
) -> tuple[Harvest, pd.DataFrame]:
    """The harvest and its table with `target_ci` and the target language's `share`, checked."""
    if harvest is None:
        raise UserError(
            f"selection={what} needs a harvest and there is none: run python -m "
            "pd_finetune.harvest, or give keys by selection=keys"
        )
    if harvest.config["hashes"]["decomposition"] != decomposition.hash:
        raise UserError(
            "the harvest is of another decomposition: run python -m pd_finetune.harvest anew"
        )
    _check_language(harvest, language, "languages.target")
    table = harvest.subcomponents
    total = table[[f"mean_ci_{name}" for name in harvest.languages]].sum(axis=1)
    target_ci = table[f"mean_ci_{language}"]
    return harvest, table.assign(
        target_ci=target_ci, share=np.where(total > 0, target_ci / total.where(total > 0, 1.0), 0.0)
    )


def _check_language(harvest: Harvest, language: str, where: str) -> None:
    if language not in harvest.languages:
        raise UserError(
            f"{where}={language} is not in the harvest; possible: {', '.join(harvest.languages)}"
        )


def _ordered(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Highest first by the given columns; ties by key (site, then index as a number)."""
    return table.sort_values(
        [*by, "site", "index"], ascending=[False] * len(by) + [True, True], ignore_index=True
    )


def _selection(
    candidates: pd.DataFrame, count: int, reason: str, harvest: Harvest, language: str
) -> Selection:
    """Take the first `count` rows of ordered candidates."""
    chosen = candidates.head(count)
    keys = [
        SubcomponentKey(str(site), int(index))
        for site, index in zip(chosen["site"], chosen["index"], strict=True)
    ]
    marked = candidates.assign(chosen=np.arange(len(candidates)) < count)
    return Selection(keys, reason, marked, harvest.tokens_spent(language))


def _named(table: pd.DataFrame) -> str:
    rows = table.head(_SHOWN).itertuples()
    return "; ".join(f"{r.key} (share {r.share:.2f}, mean CI {r.target_ci:.3g})" for r in rows)


def select_top(
    harvest: Harvest | None,
    decomposition: Decomposition,
    target_language: str,
    seed: int,
    *,
    count: int,
    contrast: str,
) -> Selection:
    """The `count` of highest mean CI on the target language minus on the contrast language.

    Raises:
        UserError: no harvest, an unknown language, or fewer than `count` above 0.
    """
    harvest, table = _table(harvest, decomposition, target_language, "top")
    _check_language(harvest, contrast, "selection.contrast")
    if contrast == target_language:
        raise UserError(
            f"selection.contrast={contrast} is the target language: choose one of "
            f"{', '.join(name for name in harvest.languages if name != target_language)}"
        )
    table = table.assign(difference=table["target_ci"] - table[f"mean_ci_{contrast}"])
    positive = _ordered(table[table["difference"] > 0], ["difference"])
    if count < 1 or len(positive) < count:
        raise UserError(
            f"selection.count={count}: {len(positive)} subcomponents have a higher mean CI on "
            f"{target_language} than on {contrast}; give 1 to {len(positive)}"
        )
    reason = f"top {count} by mean CI on {target_language} minus on {contrast}"
    kept = positive.head(max(count, _KEPT))
    return _selection(kept, count, reason, harvest, target_language)


def select_label(
    harvest: Harvest | None,
    decomposition: Decomposition,
    target_language: str,
    seed: int,
    *,
    choose: str,
) -> Selection:
    """The subcomponent whose label names the target language alone.

    Of several, `choose="effect"` takes the one whose inversion raises the target language's
    cross-entropy most, on the harvest's text; `choose="price"` the one that takes it to chance for
    the least damage of any other language there. `choose="share"` takes the highest share of mean
    CI on the target language, labels of the whole language ("German text") before those of some
    of it ("some German text"), then the highest mean CI. Ties go to the first key.

    Raises:
        UserError: no harvest, no such label, or several with `choose="only"`.
    """
    if choose not in _CHOICES:
        raise UserError(f"selection.choose={choose}: possible are {', '.join(_CHOICES)}")
    harvest, table = _table(harvest, decomposition, target_language, "label")
    matching = table["exclusive"] & (table["languages"] == target_language)
    if choose == "price":
        if "price_nats" not in table or table.loc[matching, "price_nats"].isna().all():
            raise UserError(
                f"selection.choose=price, but the harvest has no price of chance for "
                f"{target_language}: run python -m pd_finetune.harvest with prices=8 or more, or "
                "use selection.choose=effect"
            )
        table = table.assign(cheapness=-table["price_nats"].fillna(np.inf))
    by = {"effect": ["effect_nats"], "price": ["cheapness"]}.get(
        choose, ["general", "share", "target_ci"]
    )
    exclusive = _ordered(table[matching], by)
    if exclusive.empty:
        strong = table[table["target_ci"] >= EXCLUSIVE_MEAN_CI]
        near = strong if len(strong) else table[table["target_ci"] > LIVE_MEAN_CI]
        nearest = _named(_ordered(near, ["share", "target_ci"])) or "none is alive on it"
        raise UserError(
            f"no subcomponent is labelled as {target_language} alone (mean CI of "
            f"{EXCLUSIVE_MEAN_CI} or more there, a tenth of that elsewhere at most); "
            f"nearest: {nearest}; use selection=top16 or selection=keys"
        )
    if choose == "effect" and exclusive["effect_nats"].isna().all():
        raise UserError(
            "selection.choose=effect, but the harvest was made with effects=false: use "
            "selection.choose=share, or run python -m pd_finetune.harvest with effects=true"
        )
    if choose == "only" and len(exclusive) > 1:
        raise UserError(
            f"selection.choose=only, but {len(exclusive)} subcomponents are labelled as "
            f"{target_language} alone: {_named(exclusive)}; use selection.choose=effect or "
            "selection=keys"
        )
    why = {
        "effect": f"largest effect of its inversion on {target_language}",
        "price": f"least damage of another language with {target_language} at chance",
        "share": f"highest share of mean CI on {target_language}",
        "only": "the only one",
    }[choose]
    reason = (
        f"{why} among {len(exclusive)} labelled as {target_language} alone: "
        f"{exclusive['label'].iloc[0]}"
    )
    return replace(_selection(exclusive, 1, reason, harvest, target_language), by_label=True)


def select_keys(
    harvest: Harvest | None,
    decomposition: Decomposition,
    target_language: str,
    seed: int,
    *,
    keys: Sequence[str],
) -> Selection:
    """Keys given by hand, in any accepted spelling; what finding them cost is not known here.

    Raises:
        UserError: no key, a malformed one, one that does not exist, or one given twice.
    """
    import pandas as pd

    if not keys or isinstance(keys, str):
        raise UserError(
            f"selection.keys={keys or '[]'}: give a list of one or more keys, "
            "as in [h.0.attn.o_proj:39]"
        )
    parsed = [decomposition.check(SubcomponentKey.parse(str(key))) for key in keys]
    twice = [str(key) for i, key in enumerate(parsed) if key in parsed[:i]]
    if twice:
        raise UserError(f"selection.keys names {', '.join(twice)} more than once: give it once")
    names = [str(key) for key in parsed]
    candidates = pd.DataFrame({"key": names, "chosen": True})
    if harvest is not None and target_language in harvest.languages:
        _, table = _table(harvest, decomposition, target_language, "keys")
        candidates = candidates.merge(table, on="key", how="left")
    return Selection(parsed, f"given by hand: {', '.join(names)}", candidates, 0)


def select_random(
    harvest: Harvest | None,
    decomposition: Decomposition,
    target_language: str,
    seed: int,
    *,
    count: int,
) -> Selection:
    """`count` drawn with `seed` from the live ones that are not exclusive to the target language.

    Raises:
        UserError: no harvest, an unknown language, or fewer than `count` to draw from.
    """
    harvest, table = _table(harvest, decomposition, target_language, "random")
    own = table["exclusive"] & (table["languages"] == target_language)
    pool = _ordered(table[(table["mean_ci"] > LIVE_MEAN_CI) & ~own], [])
    if count < 1 or len(pool) < count:
        raise UserError(
            f"selection.count={count}: {len(pool)} live subcomponents are not exclusive to "
            f"{target_language}; give 1 to {len(pool)}"
        )
    drawn = pool.iloc[np.random.default_rng(seed).choice(len(pool), size=count, replace=False)]
    reason = (
        f"{count} drawn at random (seed {seed}) from {len(pool)} live ones "
        f"not exclusive to {target_language}"
    )
    return _selection(drawn.reset_index(drop=True), count, reason, harvest, target_language)
