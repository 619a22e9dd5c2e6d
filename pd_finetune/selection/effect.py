"""How much a language suffers when a subcomponent that is exclusively its own is inverted.

Labels say what a subcomponent is important for, not how much of the behaviour hangs on it: where
dozens are exclusive to one language, their shares of importance are all near 1 and say nothing.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.scales import change_of
from pd_finetune.selection.doses import INVERTED, Doses, price_of
from pd_finetune.selection.tables import Rows
from pd_finetune.targets.changes import edited
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.targets.load import Target
from pd_finetune.targets.predictions import sequence_cross_entropies

if TYPE_CHECKING:
    import pandas as pd

EFFECT_ROWS = 16  # windows of the language's harvest text


def add_effects(
    subcomponents: pd.DataFrame,
    target: Target,
    decomposition: Decomposition,
    texts: Rows,
    batch: int,
    progress: bool = True,
) -> pd.DataFrame:
    """`subcomponents` with `effect_nats`: cross-entropy at m = -1 minus at m = 1, in nats.

    On the first `EFFECT_ROWS` harvest windows of its own language, for exclusive subcomponents;
    nan for the others.

    Args:
        subcomponents: with key, exclusive and top_language, as `add_labels` gives it.
    """
    effects = np.full(len(subcomponents), np.nan)
    exclusive = np.flatnonzero(subcomponents["exclusive"].to_numpy())
    base: dict[str, float] = {}
    for row in tqdm(exclusive, desc="effects", unit="subcomponent", disable=not progress):
        language = str(subcomponents["top_language"].iloc[row])
        ids = torch.from_numpy(texts[language][:EFFECT_ROWS])
        if language not in base:
            base[language] = fmean(sequence_cross_entropies(target, ids, batch))
        key = SubcomponentKey.parse(str(subcomponents["key"].iloc[row]))
        change = change_of(decomposition, {key: INVERTED}, target.device)
        with edited(target.model, change):
            effects[row] = fmean(sequence_cross_entropies(target, ids, batch)) - base[language]
    return subcomponents.assign(effect_nats=effects)


def add_prices(
    subcomponents: pd.DataFrame,
    target: Target,
    decomposition: Decomposition,
    texts: Rows,
    count: int,
    batch: int,
    progress: bool = True,
) -> pd.DataFrame:
    """`subcomponents` with `price_scale` and `price_nats`: what chance costs by one scale alone.

    The scale m below 1 at which the subcomponent's own language is at chance, and the largest rise
    of another language's cross-entropy there, on the windows that effects are measured on. nan
    where it is not measured, or chance is not reached.

    Args:
        subcomponents: with key, exclusive, top_language and effect_nats.
        count: of each language's exclusive ones, those of largest effect that are priced.
    """
    own = subcomponents[subcomponents["exclusive"] & subcomponents["effect_nats"].notna()]
    ranks = own.groupby("top_language")["effect_nats"].rank(ascending=False, method="first")
    scales, prices = (np.full(len(subcomponents), np.nan) for _ in range(2))
    windows = {name: torch.from_numpy(rows[:EFFECT_ROWS]) for name, rows in texts.items()}
    by_language: dict[str, tuple[Doses, list[float]]] = {}  # and the others, unedited
    rows = subcomponents.index.get_indexer(ranks.index[ranks <= count])
    for row in tqdm(rows, desc="prices", unit="subcomponent", disable=not progress):
        language = str(subcomponents["top_language"].iloc[row])
        key = SubcomponentKey.parse(str(subcomponents["key"].iloc[row]))
        if language not in by_language:
            ordered = [windows[language], *(w for n, w in windows.items() if n != language)]
            made = Doses(target, decomposition, ordered, batch)
            by_language[language] = made, made.cross_entropies(key, 1.0)[1:]
        doses, clean = by_language[language]
        curve = doses.curve(key, -1, target.chance_nats)
        at = price_of(doses.refined(key, curve, target.chance_nats), target.chance_nats)
        if not np.isnan(at.scale):
            after = doses.cross_entropies(key, at.scale)[1:]
            scales[row] = at.scale
            prices[row] = max(b - a for a, b in zip(clean, after, strict=True))
    return subcomponents.assign(price_scale=scales, price_nats=prices)
