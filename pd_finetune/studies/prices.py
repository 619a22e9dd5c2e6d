"""Which rank-1 matrices the study of doses scales, what each costs, and the page of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from textwrap import fill
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
from pd_finetune.results.table import AT_CHANCE_NATS, DAMAGE_NATS
from pd_finetune.runtime import device_of
from pd_finetune.selection.doses import DISTANCES, MOST_DAMAGE, Doses, effect
from pd_finetune.selection.rank import select_label
from pd_finetune.studies.harvested import Harvested
from pd_finetune.tables import markdown
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


def page(prices: dict[str, pd.DataFrame], language: str, protected: str, split: str) -> str:
    """What the picture shows, by group."""
    rows = []
    for group, own in prices.items():
        there = own.dropna(subset="damage_nats").sort_values("damage_nats")
        best = there.iloc[0] if len(there) else None
        rows.append(
            {
                "candidates": group,
                "number": str(len(own)),
                "reach chance": str(len(there)),
                f"below {DAMAGE_NATS:.2f}": str((there["damage_nats"] < DAMAGE_NATS).sum()),
                "cheapest": "–" if best is None else f"`{best['key']}`",
                "at scale": "–" if best is None else f"{best['scale']:+.1f}",
                "damage": "–" if best is None else f"{best['damage_nats']:.2f}",
                "by label": _chosen(own),
            }
        )
    target, name = language_name(language), language_name(protected)
    words = (
        f"One scalar each, turned in both directions until {target} is within {AT_CHANCE_NATS} "
        f"nats of chance on {split} text; *damage*: {name}, in nats per token there. Scales from "
        f"{1 - DISTANCES[-1]:g} to {1 + DISTANCES[-1]:g}, damage up to {MOST_DAMAGE:g} nats. "
        "No token is trained on: it is about what tuning this one number could find at best on "
        "this text. *Any*, *singular directions*: of those with a mean importance of "
        f"{LEAST_MEAN_CI:g} on {target}, and of the leading {LEADING} of each matrix, the largest "
        f"effects of inverting on {target} less those on {name}, on the first {EFFECT_ROWS} "
        "windows of either. *By label*: what the label rule selects, its damage, and its place "
        "among those of its row."
    )
    table = markdown(pd.DataFrame(rows), ["cheapest", "by label"])
    return f"# The price of chance\n\n{fill(words, 118)}\n\n{table}"


def _chosen(own: pd.DataFrame) -> str:
    chosen = own[own["selected"].astype(bool)]
    if chosen.empty:
        return "–"
    key, damage = chosen.iloc[0][["key", "damage_nats"]]
    if pd.isna(damage):
        return f"`{key}`: not within these"
    place = int((own["damage_nats"] < damage).sum()) + 1
    return f"`{key}`: {damage:.2f}, place {place}"
