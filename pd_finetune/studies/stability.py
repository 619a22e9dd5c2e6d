"""Do decompositions of one target, by different seeds, find the same subcomponents?

`python -m pd_finetune.studies.stability` compares the first decomposition with each other: at every
site, the best match of every subcomponent by the cosine of the rank-1 matrices, the correlation of
the two's importances over held-out text (where both are stored with what predicts them), and, as a
control, the best cosine when the other's U are dealt to its V at random. Which are alive, and which
fire for one language alone, their harvests say. Writes stability.md, and for each pair a picture
with its numbers, a row per subcomponent (stability_1.csv, ...).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from pd_finetune.errors import UserError
from pd_finetune.main import stage_main
from pd_finetune.schema import Checked, Count, Split, Threads, require
from pd_finetune.targets.config import ModelConfig
from pd_finetune.text.config import LanguagesConfig

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from pd_finetune.selection.store import Harvest
    from pd_finetune.studies.harvested import Harvested
    from pd_finetune.targets.load import Target

LEAST_MEAN_CI = 1e-3  # rarer ones are seen in a hundred tokens of a usual harvest, or fewer
NEAR = 0.9  # a cosine above it is called the same direction


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


def mean_cis(harvest: Harvest) -> dict[str, Tensor]:
    """Mean importance [C] by site, over languages."""
    import torch

    return {
        str(site): torch.tensor(rows.sort_values("index")["mean_ci"].to_numpy())
        for site, rows in harvest.subcomponents.groupby("site")
    }


def start_cosines(found: Harvested, target: Target) -> dict[tuple[str, int], float]:
    """Cosine of each subcomponent with the one it was at step 0; none where that is unknown."""
    from pd_finetune.decomposition.components import Subcomponents
    from pd_finetune.decomposition.evidence.stability import cosines
    from pd_finetune.decomposition.initialise import INITIAL, initialise

    config = found.decomposition.record.get("config", {})
    initial = config.get("initial", "row_space")  # older records: there was no other
    if config.get("start_from") or "seed" not in config or initial not in INITIAL:
        return {}
    own = found.decomposition.components
    start = Subcomponents(own.sites).to(target.device)
    initialise(start, target.model, config["seed"], initial)
    values = {}
    for site in own.sites:
        between = cosines(own.V(site), own.U(site), start.V(site), start.U(site))
        own_starts = between.diagonal().tolist()
        values |= {(site, index): cosine for index, cosine in enumerate(own_starts)}
    return values


def importances(found: Harvested, target: Target, ids: Tensor) -> dict[str, Tensor] | None:
    """Importances [tokens, C] by site; None where their function is not stored."""
    if found.decomposition.stored_ci_function is None:
        return None
    by_site = found.decomposition.causal_importances(target, ids)
    return {site: ci.flatten(0, 1).cpu() for site, ci in by_site.items()}


def _median(values: pd.Series) -> str:
    return "–" if values.isna().all() else f"{values.median():.2f}"


def page(matched: pd.DataFrame, language: str, tokens: int, harvest: Harvest) -> str:
    """A row per pair and group of subcomponents."""
    import pandas as pd

    from pd_finetune.plots.style import language_name
    from pd_finetune.selection.labels import EXCLUSIVE_MEAN_CI
    from pd_finetune.tables import markdown

    lines = []
    for pair, group in matched.groupby("pair", sort=False):
        groups = {"all": group}
        for code in sorted(set(group["exclusive"]) - {""}, key=lambda c: (c != language, c)):
            groups[f"{language_name(code)} alone"] = group[group["exclusive"] == code]
        for group_name, part in groups.items():
            same = (part["exclusive"] == part["match_exclusive"]) & (part["exclusive"] != "")
            lines.append(
                {
                    "pair": str(pair),
                    "subcomponents": group_name,
                    "number": f"{len(part):,}",
                    "median cosine": _median(part["cosine"]),
                    "chance": _median(part["control_cosine"]),
                    f"cosine above {NEAR:g}": f"{(part['cosine'] > NEAR).mean():.0%}",
                    "mutual": f"{part['mutual'].mean():.0%}",
                    "with own start": _median(part["start_cosine"]),
                    "correlation of CI": _median(part["correlation"]),
                    "best correlation": _median(part["best_correlation"]),
                    "match fires for it alone": (
                        "–" if group_name == "all" else f"{same.mean():.0%}"
                    ),
                }
            )
    table = pd.DataFrame(lines)
    return (
        "# The same subcomponents by another seed?\n\n"
        "Each subcomponent of the first decomposition and its best match, by the cosine of the "
        "rank-1 matrices, at the\nsame site of the second. *Chance*: the best cosine when the "
        "second's U are dealt to its V at random. *Mutual*: the\nmatch's own best match is the "
        "first. *With own start*: cosine of the first's with\nwhat it was at step 0, by its seed. "
        f"*Correlation*: of the two's causal importances over {tokens:,} held-out tokens; *best*: "
        "with\nany of the site (–: one is stored without what predicts them). Medians.\n"
        f"Mean CI of {LEAST_MEAN_CI:g} or more on the harvest's text "
        f"({sum(harvest.config['tokens_per_language'].values()):,} tokens). *Alone*: fires for one "
        f"language (mean CI {EXCLUSIVE_MEAN_CI:g}\nor more, ten times any other's).\n\n"
        f"{markdown(table, right=table.columns[2:])}"
    )


def run(config: StabilityConfig) -> Path:
    """Match the first decomposition with the others.

    Raises:
        UserError: parts are missing, or are of different text, sites or languages.
    """
    import numpy as np
    import pandas as pd
    import torch
    from hydra.utils import instantiate

    from pd_finetune.decomposition.evidence.stability import matches
    from pd_finetune.files import make_folder, write_text
    from pd_finetune.loading.target import load_target
    from pd_finetune.plots import style
    from pd_finetune.plots.evidence import stability
    from pd_finetune.runtime import device_of, prepare
    from pd_finetune.studies.harvested import Harvested
    from pd_finetune.text.tokens import token_stream, windows

    prepare(config.threads)
    language, source = config.languages.target, instantiate(config.languages.source)
    target = load_target(config.model.folder, device_of(config.device), config.model.dtype)
    every = [Harvested.of(folder, target, language) for folder in config.decompositions]
    first, *others = every
    for other in others:
        if other.harvest.config["hashes"]["text"] != first.harvest.config["hashes"]["text"]:
            raise UserError(
                f"the harvests of '{first.name}' and '{other.name}' are of other languages or "
                "text: run python -m pd_finetune.harvest on the same for both"
            )
    rows = [
        windows(
            token_stream(target.tokenizer, source, name, config.split),
            config.rows_per_language,
            first.decomposition.window,
        )
        for name in config.languages.all
    ]
    ids = torch.from_numpy(np.concatenate(rows)).to(target.device)
    if len(ids) == 0:
        raise UserError(f"no {config.split} text of a window's {first.decomposition.window} tokens")
    alone, begun = first.exclusive(), start_cosines(first, target)
    own = importances(first, target, ids)
    out, parts = make_folder(Path(config.out).expanduser()), []
    for number, other in enumerate(others, 1):
        found = matches(
            first.decomposition.components.cpu(),
            mean_cis(first.harvest),
            other.decomposition.components.cpu(),
            mean_cis(other.harvest),
            LEAST_MEAN_CI,
            own,
            None if own is None else importances(other, target, ids),
        )
        keys = list(zip(found["site"], found["index"], strict=True))
        theirs = zip(found["site"], found["match"], strict=True)
        other_alone = other.exclusive()
        found["exclusive"] = [alone.get(key, "") for key in keys]
        found["match_exclusive"] = [other_alone.get(key, "") for key in theirs]
        found.insert(0, "pair", f"{first.name}, {other.name}")
        found["start_cosine"] = [begun.get(key, math.nan) for key in keys]
        style.save(stability.draw(found, language), out, f"stability_{number}")
        parts.append(found)
    text = page(pd.concat(parts, ignore_index=True), language, ids.numel(), first.harvest)
    write_text(out / "stability.md", text)
    print(text)
    return out


if __name__ == "__main__":
    stage_main("stability", StabilityConfig, run)
