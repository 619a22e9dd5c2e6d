"""The price of chance: what could one scalar do at best, in these decompositions and in an SVD?

    python scripts/doses.py embedded embedded_seed1 embedded_seed2 --out results/doses \
        [key=value ...]

Every subcomponent that a decomposition's harvest labels as the target language's alone is scaled by
itself, in both directions, until held-out text of that language is at chance, and the damage to the
protected language is read off between the scales tried. No token is trained on: this is the best
that tuning the one number could find. For comparison, chosen without labels by the effect of
inverting them (on a part of the same text, in nats of the target language less those of the
protected one): the strongest of all subcomponents with a mean importance of at least 0.001, and of
all singular directions of the same matrices.

Writes doses.csv (a row per candidate), its picture, and doses.md. Words at the end reach the
config that names model, languages, evaluation, device and threads (`python -m pd_finetune.run`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
from decomposed import composed, told_apart
from hydra.utils import instantiate
from tqdm import tqdm

from pd_finetune.config import RunConfig
from pd_finetune.config_store import register_schemas
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.folder import SHIPPED, decomposition_folder
from pd_finetune.decomposition.store import load_decomposition
from pd_finetune.errors import UserError
from pd_finetune.evaluation.held_out import HeldOut, held_out
from pd_finetune.files import make_folder, write_text
from pd_finetune.plots import doses as picture
from pd_finetune.plots import style
from pd_finetune.plots.tables import markdown
from pd_finetune.results.table import AT_CHANCE_NATS, DAMAGE_NATS
from pd_finetune.runtime import device_of, prepare
from pd_finetune.selection.doses import Doses, effect, singular_basis
from pd_finetune.selection.store import load_harvest
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.targets.load import load_target

LEAST_MEAN_CI = 1e-3  # rarer ones cannot carry a language
EFFECT_ROWS = 8  # windows of either language


class Comparison:
    """Prices of the candidates of several bases, all on the same text.

    Args:
        words: overrides of the run's config.
        count: how many are taken where no label chooses.
    """

    def __init__(self, words: list[str], count: int) -> None:
        config = composed("config", ["evaluation.split=validation", "evaluation.rows=32", *words])
        assert isinstance(config, RunConfig)
        prepare(config.threads)
        self.language, self.protected = config.languages.target, config.languages.preserve[0]
        self._count = count
        self._target = load_target(config.model.folder, device_of(config.device), "float32")
        config.evaluation.out_of_domain = False
        names = [self.language, self.protected]
        source = instantiate(config.languages.source)
        self._texts = held_out(self._target, source, names, config.evaluation)
        self._chance = self._target.chance_nats - AT_CHANCE_NATS
        self._batch = config.evaluation.batch
        self._sites: Decomposition | None = None

    def decomposition(self, folder: str) -> list[dict[str, object]]:
        """Rows of the labelled candidates and of the strongest of all alive ones."""
        basis = load_decomposition(folder, self._target)
        self._sites = self._sites or basis
        table = load_harvest(decomposition_folder(folder) / "harvest", self._target, basis)
        found = table.subcomponents
        name = folder if folder in SHIPPED else Path(folder).name
        own = found[found["exclusive"] & (found["top_language"] == self.language)]
        order = own.sort_values("effect_nats", ascending=False)["key"]
        best = str(order.iloc[0]) if len(own) else None
        labelled = [SubcomponentKey.parse(key) for key in own["key"]]
        group = f"{name}, {style.language_name(self.language)} alone"
        doses = Doses(self._target, basis, self._texts, self._batch)
        rows = self._prices(group, doses, labelled, best)
        alive = [SubcomponentKey.parse(k) for k in found["key"][found["mean_ci"] >= LEAST_MEAN_CI]]
        return rows + self._strongest(f"{name}, any", basis, doses, alive)

    def singular(self) -> list[dict[str, object]]:
        """Rows of the strongest singular directions of the first decomposition's matrices."""
        assert self._sites is not None
        basis = singular_basis(self._target, list(self._sites.sites.values()))
        doses = Doses(self._target, basis, self._texts, self._batch)
        return self._strongest("singular directions", basis, doses, basis.all_keys())

    def _strongest(
        self, group: str, basis: Decomposition, doses: Doses, keys: list[SubcomponentKey]
    ) -> list[dict[str, object]]:
        few = {
            name: HeldOut(text.ids[:EFFECT_ROWS], (*text.facts, EFFECT_ROWS))
            for name, text in self._texts.items()
        }
        quick = Doses(self._target, basis, few, self._batch)
        bar = tqdm(keys, desc=f"{group}: effects", unit="subcomponent", dynamic_ncols=True)
        effects = {key: effect(quick, key) for key in bar}
        chosen = sorted(keys, key=effects.__getitem__, reverse=True)[: self._count]
        return self._prices(group, doses, chosen)

    def _prices(
        self, group: str, doses: Doses, keys: list[SubcomponentKey], selected: str | None = None
    ) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []
        for key in tqdm(keys, desc=f"{group}: doses", unit="subcomponent", dynamic_ncols=True):
            price = doses.price(key, self._chance)
            rows.append(
                {
                    "group": group,
                    "key": str(key),
                    "scale": price.scale,
                    "damage_nats": price.damage,
                    "selected": str(key) == selected,
                }
            )
        return rows


def page(prices: pd.DataFrame, language: str, protected: str) -> str:
    """What the picture shows, by group."""
    rows = []
    for group, own in prices.groupby("group", sort=False):
        there = own.dropna(subset="damage_nats").sort_values("damage_nats")
        chosen = own[own["selected"]]
        best = there.iloc[0] if len(there) else None
        rows.append(
            {
                "candidates": group,
                "number": str(len(own)),
                "at chance": str(len(there)),
                f"below {DAMAGE_NATS:.2f}": str((there["damage_nats"] < DAMAGE_NATS).sum()),
                "cheapest": "–" if best is None else f"`{best['key']}`",
                "at scale": "–" if best is None else f"{best['scale']:+.1f}",
                "damage": "–" if best is None else f"{best['damage_nats']:.2f}",
                "by label": _chosen(chosen, there),
            }
        )
    target, name = style.language_name(language), style.language_name(protected)
    return (
        "# The price of chance\n\n"
        f"One scalar each, turned in both directions until {target} is within {AT_CHANCE_NATS} "
        f"nats of chance on validation text;\n*damage*: {name}, in nats per token there. No token "
        "is trained on: it is what tuning this one number could find at best on this text.\n"
        "*By label*: what the label rule selects, its damage, and its rank among those of its row "
        "that get there.\n\n"
        f"{markdown(pd.DataFrame(rows))}"
    )


def _chosen(chosen: pd.DataFrame, there: pd.DataFrame) -> str:
    if chosen.empty:
        return "–"
    row = chosen.iloc[0]
    if pd.isna(row["damage_nats"]):
        return f"`{row['key']}` never"
    rank = int((there["damage_nats"] < row["damage_nats"]).sum()) + 1
    return f"`{row['key']}` {row['damage_nats']:.2f} ({rank}.)"


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
    register_schemas()
    try:
        out = make_folder(options.out)
        comparison = Comparison(words, options.count)
        rows = [row for name in options.decompositions for row in comparison.decomposition(name)]
        prices = pd.DataFrame(rows + comparison.singular())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    who = comparison.language, comparison.protected
    style.save(picture.draw(prices, *who), out, "doses")
    write_text(out / "doses.md", page(prices, *who))


if __name__ == "__main__":
    main()
