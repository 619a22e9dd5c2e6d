"""Which rank-1 matrices the study of doses scales, and what each of them costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
from hydra.utils import instantiate
from tqdm import tqdm

from pd_finetune.decomposition.bases import svd
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.errors import UserError
from pd_finetune.evaluation.held_out import held_out
from pd_finetune.loading.target import load_target
from pd_finetune.plots.style import language_name
from pd_finetune.results.table import AT_CHANCE_NATS
from pd_finetune.runtime import device_of
from pd_finetune.selection.doses import Doses, effect
from pd_finetune.selection.rank import select_label
from pd_finetune.studies.harvested import Harvested
from pd_finetune.targets.keys import SubcomponentKey

if TYPE_CHECKING:
    from pd_finetune.studies.doses import DosesConfig

LEAST_MEAN_CI = 0.1  # on the target language, of candidates without labels
LEADING = 32  # singular directions of each matrix
EFFECT_ROWS = 8  # windows of either language
COLUMNS = ["group", "key", "scale", "damage_nats", "selected"]


def _parsed(keys: Iterable[str]) -> list[SubcomponentKey]:
    return [SubcomponentKey.parse(key) for key in keys]


class Comparison:
    """Prices of the candidates of several bases, all on the same text."""

    def __init__(self, config: DosesConfig) -> None:
        device = device_of(config.device)
        self.target = load_target(config.model.folder, device, config.model.dtype)
        self._language, self._count = config.languages.target, config.count
        names = [self._language, config.languages.preserve[0]]
        settings = replace(config.evaluation, out_of_domain=False)
        texts = held_out(self.target, instantiate(config.languages.source), names, settings)
        self._texts = texts[names[0]].ids, texts[names[1]].ids
        self._chance = self.target.chance_nats - AT_CHANCE_NATS
        self._batch = config.evaluation.batch

    def prices(self, decompositions: list[Harvested]) -> dict[str, pd.DataFrame]:
        """A row per candidate, by group: labelled ones, those without labels, and of the SVD.

        Raises:
            UserError: the target language is at chance as it is.
        """
        found = {}
        for one in decompositions:
            basis, table = one.decomposition, one.harvest.subcomponents
            doses = self._doses(basis)
            alone = table["exclusive"] & (table["top_language"] == self._language)
            labelled, selected = _parsed(table["key"][alone]), None
            if labelled:
                chosen = select_label(one.harvest, basis, self._language, 0, choose="effect")
                (selected,) = chosen.keys
            group = f"{one.name}, {language_name(self._language)} alone"
            found[group] = self._priced(group, doses, labelled, selected)
            seen = table["key"][table[f"mean_ci_{self._language}"] >= LEAST_MEAN_CI]
            group = f"{one.name}, any"
            found[group] = self._strongest(group, basis, doses, _parsed(seen))
        basis = svd.build(self.target, sites=list(decompositions[0].decomposition.sites))
        leading = [key for key in basis.all_keys() if key.index < LEADING]
        group = "singular directions"
        found[group] = self._strongest(group, basis, self._doses(basis), leading)
        return found

    def _doses(self, basis: Decomposition) -> Doses:
        doses = Doses(self.target, basis, self._texts, self._batch)
        if doses.clean.target_ce >= self._chance:
            raise UserError(
                f"'{self._language}' is at chance as it is ({doses.clean.target_ce:.2f} nats): "
                "nothing is left to turn"
            )
        return doses

    def _strongest(
        self, group: str, basis: Decomposition, doses: Doses, keys: list[SubcomponentKey]
    ) -> pd.DataFrame:
        target, protected = self._texts
        few = target[:EFFECT_ROWS], protected[:EFFECT_ROWS]
        quick = Doses(self.target, basis, few, self._batch)
        bar = tqdm(keys, desc=f"{group}: effects", unit="subcomponent", dynamic_ncols=True)
        effects = {key: effect(quick, key) for key in bar}
        chosen = sorted(keys, key=effects.__getitem__, reverse=True)[: self._count]
        return self._priced(group, doses, chosen)

    def _priced(
        self,
        group: str,
        doses: Doses,
        keys: list[SubcomponentKey],
        selected: SubcomponentKey | None = None,
    ) -> pd.DataFrame:
        rows = []
        for key in tqdm(keys, desc=f"{group}: doses", unit="subcomponent", dynamic_ncols=True):
            price = doses.price(key, self._chance)
            rows.append((group, str(key), price.scale, price.damage, key == selected))
        return pd.DataFrame(rows, columns=COLUMNS)
