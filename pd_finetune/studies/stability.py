"""Do decompositions of one target, by different seeds, find the same subcomponents?

`python -m pd_finetune.studies.stability` compares the first decomposition with each other: at every
site, the best match of every subcomponent by the cosine of the rank-1 matrices, the correlation of
the two's importances over held-out text (where both are stored with what predicts them), and, as a
control, the best cosine when the other's U are dealt to its V at random. Which are alive, and which
fire for one language alone, their harvests say. Writes stability.md, and for each pair a picture
with its numbers, a row per subcomponent (stability_1.csv, ...).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from omegaconf import MISSING

from pd_finetune.files import make_folder, write_text
from pd_finetune.main import stage_main
from pd_finetune.plots import style
from pd_finetune.plots.evidence import stability
from pd_finetune.schema import Checked, Count, Split, Threads, require
from pd_finetune.targets.config import ModelConfig
from pd_finetune.text.config import LanguagesConfig


@dataclass
class StabilityConfig(Checked):
    """Matched subcomponents: `python -m pd_finetune.studies.stability`."""

    model: ModelConfig = MISSING
    languages: LanguagesConfig = MISSING  # those of its target are marked
    decompositions: list[str] = MISSING  # the first, then others
    split: Split = MISSING  # of the text; never train
    rows_per_language: Count = MISSING  # windows
    device: str = MISSING
    threads: Threads = MISSING
    out: str = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.decompositions) > 1, "decompositions: give two or more to be matched")


def run(config: StabilityConfig) -> Path:
    """Match the first decomposition with the others.

    Raises:
        UserError: parts are missing, or are of different text, sites or languages.
    """
    from pd_finetune.loading.target import load_target
    from pd_finetune.runtime import device_of, prepare
    from pd_finetune.studies.harvested import Harvested
    from pd_finetune.studies.matching import held_out, matched, page

    prepare(config.threads)
    out, language = make_folder(Path(config.out).expanduser()), config.languages.target
    target = load_target(config.model.folder, device_of(config.device), config.model.dtype)
    found = [Harvested.of(folder, target, language) for folder in config.decompositions]
    window = found[0].decomposition.window
    ids = held_out(target, config.languages, config.split, config.rows_per_language, window)
    frames = matched(found, target, ids)
    for number, frame in enumerate(frames, 1):
        style.save(stability.draw(frame, language), out, f"stability_{number}")
    together = pd.concat(frames, ignore_index=True)
    text = page(together, language, ids.numel(), found[0].harvest)
    write_text(out / "stability.md", text)
    print(text)
    return out


if __name__ == "__main__":
    stage_main("stability", StabilityConfig, run)
