"""The price of chance: what could one scalar do, in these decompositions and in an SVD?

    python scripts/doses.py embedded embedded_seed1 embedded_seed2 --out results/doses \
        [key=value ...]

Every subcomponent that a decomposition's harvest labels as the target language's alone is scaled by
itself, in both directions, until held-out text of that language is at chance, and the damage to the
protected language is read off. No token is trained on: this is about the best that tuning the one
number could find. For comparison, chosen without labels, by the effect of inverting them on the
first windows of the same text (nats of the target language less those of the protected one): the
strongest of all subcomponents with a mean importance of at least 0.1 on the target language, and of
the leading 32 singular directions of each of the first decomposition's matrices.

Writes doses.csv (a row per candidate), its picture, and doses.md. Words at the end reach the
config that names model, languages, evaluation, device and threads (`python -m pd_finetune.run`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import pandas as pd
from decomposed import composed, told_apart
from hydra.utils import instantiate
from tqdm import tqdm

from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.folder import SHIPPED, decomposition_folder
from pd_finetune.decomposition.store import load_decomposition
from pd_finetune.errors import UserError
from pd_finetune.evaluation.held_out import HeldOut, held_out
from pd_finetune.files import make_folder, write_text
from pd_finetune.finetuning.config import RunConfig
from pd_finetune.plots import doses as picture
from pd_finetune.plots import style
from pd_finetune.plots.tables import markdown
from pd_finetune.results.table import AT_CHANCE_NATS, DAMAGE_NATS
from pd_finetune.runtime import device_of, prepare
from pd_finetune.selection.doses import (
    DISTANCES,
    MOST_DAMAGE,
    Doses,
    effect,
    singular_basis,
)
from pd_finetune.selection.rank import select_label
from pd_finetune.selection.store import load_harvest
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.targets.load import Target, load_target

LEAST_MEAN_CI = 0.1  # on the target language, of candidates without labels
LEADING = 32  # singular directions of each matrix
EFFECT_ROWS = 8  # windows of either language
_NOT_READ = ("decomposition", "selection", "method", "arm", "budget", "seed", "keys")
COLUMNS = ["group", "key", "scale", "damage_nats", "selected"]


@dataclass
class Candidates:
    """One decomposition with what its harvest says."""

    name: str
    basis: Decomposition
    labelled: list[SubcomponentKey]
    selected: SubcomponentKey | None  # by `selection=label`; None: nothing has such a label
    seen: list[SubcomponentKey]  # important for the target language

    @classmethod
    def of(cls, folder: str, target: Target, language: str) -> Candidates:
        """Load both.

        Raises:
            UserError: there is none, or its harvest is missing, or knows no such language.
        """
        basis = load_decomposition(folder, target)
        harvest = load_harvest(decomposition_folder(folder) / "harvest", target, basis)
        if language not in harvest.languages:
            known = ", ".join(harvest.languages)
            raise UserError(f"the harvest of '{folder}' is of {known}, not of '{language}'")
        table = harvest.subcomponents
        own = table["key"][table["exclusive"] & (table["top_language"] == language)]
        selected = None
        if len(own):
            (selected,) = select_label(harvest, basis, language, 0, choose="effect").keys
        seen = table["key"][table[f"mean_ci_{language}"] >= LEAST_MEAN_CI]
        name = folder if folder in SHIPPED else Path(folder).resolve().name
        return cls(name, basis, _parsed(own), selected, _parsed(seen))


def _parsed(keys: Iterable[str]) -> list[SubcomponentKey]:
    return [SubcomponentKey.parse(key) for key in keys]


class Comparison:
    """Prices of the candidates of several bases, all on the same text.

    Args:
        words: overrides of the run's config.
        count: how many are taken where no label chooses.
    """

    def __init__(self, words: list[str], count: int) -> None:
        for word in words:
            if word.lstrip("+~").split("=")[0].split(".")[0] in _NOT_READ:
                raise UserError(f"{word}: not read here; decompositions are given as arguments")
        config = composed("config", ["evaluation.split=validation", "evaluation.rows=16", *words])
        assert isinstance(config, RunConfig)
        prepare(config.threads)
        if len(config.languages.preserve) > 1:
            raise UserError(
                f"languages.preserve={config.languages.preserve}: the price is of one language"
            )
        self.language, self.protected = config.languages.target, config.languages.preserve[0]
        self.split = config.evaluation.split
        self._count = count
        device = device_of(config.device)
        self.target = load_target(config.model.folder, device, config.model.dtype)
        config.evaluation.out_of_domain = False
        names = [self.language, self.protected]
        source = instantiate(config.languages.source)
        self._texts = held_out(self.target, source, names, config.evaluation)
        self._chance = self.target.chance_nats - AT_CHANCE_NATS
        self._batch = config.evaluation.batch

    def prices(self, all_candidates: list[Candidates]) -> dict[str, pd.DataFrame]:
        """A row per candidate, by group: labelled ones, those without labels, and of the SVD.

        Raises:
            UserError: the target language is at chance as it is.
        """
        found = {}
        for candidates in all_candidates:
            doses = self._doses(candidates.basis)
            group = f"{candidates.name}, {style.language_name(self.language)} alone"
            found[group] = self._priced(group, doses, candidates.labelled, candidates.selected)
            group = f"{candidates.name}, any"
            found[group] = self._strongest(group, candidates.basis, doses, candidates.seen)
        sites = list(all_candidates[0].basis.sites.values())
        basis = singular_basis(self.target, sites)
        leading = [key for key in basis.all_keys() if key.index < LEADING]
        group = "singular directions"
        found[group] = self._strongest(group, basis, self._doses(basis), leading)
        return found

    def _doses(self, basis: Decomposition) -> Doses:
        doses = Doses(self.target, basis, self._texts, self._batch)
        if doses.clean.target_ce >= self._chance:
            raise UserError(
                f"'{self.language}' is at chance as it is ({doses.clean.target_ce:.2f} nats): "
                "nothing is left to turn"
            )
        return doses

    def _strongest(
        self, group: str, basis: Decomposition, doses: Doses, keys: list[SubcomponentKey]
    ) -> pd.DataFrame:
        few = {
            name: HeldOut(text.ids[:EFFECT_ROWS], (*text.facts, EFFECT_ROWS))
            for name, text in self._texts.items()
        }
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
    target, name = style.language_name(language), style.language_name(protected)
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
    return f"# The price of chance\n\n{fill(words, 118)}\n\n{markdown(pd.DataFrame(rows))}"


def _chosen(own: pd.DataFrame) -> str:
    chosen = own[own["selected"].astype(bool)]
    if chosen.empty:
        return "–"
    key, damage = chosen.iloc[0][["key", "damage_nats"]]
    if pd.isna(damage):
        return f"`{key}`: not within these"
    place = int((own["damage_nats"] < damage).sum()) + 1
    return f"`{key}`: {damage:.2f}, place {place}"


def main() -> None:
    """Measure and write, or say in one line why not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("decompositions", nargs="*", default=["embedded"], metavar="DECOMPOSITION")
    parser.add_argument("--out", type=Path, default=Path("results/doses"))
    parser.add_argument("--count", type=int, default=16, help="without labels (%(default)s)")
    own, words = told_apart(sys.argv[1:])
    options = parser.parse_args(own)
    if options.count < 1:
        parser.error(f"--count={options.count} must be at least 1")
    register_schemas()
    try:
        out = make_folder(options.out)
        comparison = Comparison(words, options.count)
        found = [
            Candidates.of(folder, comparison.target, comparison.language)
            for folder in options.decompositions
        ]
        names = [candidates.name for candidates in found]
        if len(set(names)) < len(names):
            raise UserError(f"two decompositions of one name among {', '.join(names)}: rename one")
        prices = comparison.prices(found)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    who = comparison.language, comparison.protected
    style.save(picture.draw(prices, *who), out, "doses")
    write_text(out / "doses.md", page(prices, *who, comparison.split))


if __name__ == "__main__":
    main()
