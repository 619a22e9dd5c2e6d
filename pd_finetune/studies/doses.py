"""The price of chance: what could one scalar do, in these decompositions and in an SVD?

`python -m pd_finetune.studies.doses`: every subcomponent that a decomposition's harvest labels as
the target language's alone is scaled by itself, in both directions, until held-out text of that
language is at chance, and the damage to the protected language is read off. No token is trained on:
this is about the best that tuning the one number could find. For comparison, chosen without labels,
by the effect of inverting them on the first windows of the same text (nats of the target language
less those of the protected one): the strongest of all subcomponents with a mean importance of at
least 0.1 on the target language, and of the leading 32 singular directions of each of the first
decomposition's matrices.

Writes doses.csv (a row per candidate), its picture, and doses.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated

from omegaconf import MISSING

from pd_finetune.errors import UserError
from pd_finetune.evaluation.config import EvaluationConfig
from pd_finetune.main import stage_main
from pd_finetune.schema import Checked, Count, NotEmpty, Threads
from pd_finetune.targets.config import ModelConfig
from pd_finetune.text.config import LanguagesConfig

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class DosesConfig(Checked):
    """The price of chance by one scale: `python -m pd_finetune.studies.doses`."""

    model: ModelConfig = MISSING
    languages: LanguagesConfig = MISSING
    evaluation: EvaluationConfig = MISSING  # split, rows, window and batch are read
    decompositions: Annotated[list[str], NotEmpty("name folders, or what ships")] = MISSING
    count: Count = MISSING  # candidates where no label chooses
    device: str = MISSING
    threads: Threads = MISSING
    out: str = MISSING


def page(prices: dict[str, pd.DataFrame], language: str, protected: str, split: str) -> str:
    """What the picture shows, by group."""
    import pandas as pd

    from pd_finetune.plots.style import language_name
    from pd_finetune.results.table import AT_CHANCE_NATS, DAMAGE_NATS
    from pd_finetune.selection.doses import DISTANCES, MOST_DAMAGE
    from pd_finetune.studies.candidates import EFFECT_ROWS, LEADING, LEAST_MEAN_CI
    from pd_finetune.tables import markdown

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
    import pandas as pd

    chosen = own[own["selected"].astype(bool)]
    if chosen.empty:
        return "–"
    key, damage = chosen.iloc[0][["key", "damage_nats"]]
    if pd.isna(damage):
        return f"`{key}`: not within these"
    place = int((own["damage_nats"] < damage).sum()) + 1
    return f"`{key}`: {damage:.2f}, place {place}"


def run(config: DosesConfig) -> Path:
    """Measure and write.

    Raises:
        UserError: parts are missing or do not belong together, or nothing is left to turn.
    """
    from pd_finetune.files import make_folder, write_text
    from pd_finetune.plots import doses as picture
    from pd_finetune.plots import style
    from pd_finetune.runtime import prepare
    from pd_finetune.studies.candidates import Comparison
    from pd_finetune.studies.harvested import Harvested

    prepare(config.threads)
    protected = config.languages.preserve
    if len(protected) > 1:
        raise UserError(f"languages.preserve={protected}: the price is of one language")
    out, language = make_folder(Path(config.out).expanduser()), config.languages.target
    comparison = Comparison(config)
    found = [Harvested.of(name, comparison.target, language) for name in config.decompositions]
    names = [decomposition.name for decomposition in found]
    if len(set(names)) < len(names):
        raise UserError(f"two decompositions of one name among {', '.join(names)}: rename one")
    prices = comparison.prices(found)
    style.save(picture.draw(prices, language, protected[0]), out, "doses")
    write_text(out / "doses.md", page(prices, language, protected[0], config.evaluation.split))
    return out


if __name__ == "__main__":
    stage_main("doses", DosesConfig, run)
