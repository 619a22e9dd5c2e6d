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
from typing import Annotated

from omegaconf import MISSING

from pd_finetune.errors import UserError
from pd_finetune.evaluation.config import EvaluationConfig
from pd_finetune.files import make_folder, write_text
from pd_finetune.main import stage_main
from pd_finetune.plots import doses as picture
from pd_finetune.plots import style
from pd_finetune.schema import Checked, Count, NotEmpty, Threads
from pd_finetune.targets.config import ModelConfig
from pd_finetune.text.config import LanguagesConfig


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


def run(config: DosesConfig) -> Path:
    """Measure and write.

    Raises:
        UserError: parts are missing or do not belong together, or nothing is left to turn.
    """
    from pd_finetune.runtime import prepare
    from pd_finetune.studies.harvested import Harvested
    from pd_finetune.studies.prices import Comparison, page

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
