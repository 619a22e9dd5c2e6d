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
from pd_finetune.selection.tables import Rows
from pd_finetune.targets.changes import edited
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.targets.load import Target
from pd_finetune.targets.predictions import sequence_cross_entropies

if TYPE_CHECKING:
    import pandas as pd

INVERTED = -1.0  # the scale m; 1 is the unedited target
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
