"""Subcomponents of one decomposition matched with another's, and the page of it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from jaxtyping import Float, Int
from torch import Tensor

from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.evidence.stability import cosines, matches
from pd_finetune.decomposition.initialise import INITIAL, initialise
from pd_finetune.errors import UserError
from pd_finetune.plots.style import language_name
from pd_finetune.selection.labels import EXCLUSIVE_MEAN_CI
from pd_finetune.selection.store import Harvest
from pd_finetune.studies.harvested import Harvested
from pd_finetune.tables import markdown
from pd_finetune.targets.load import Target
from pd_finetune.text.config import LanguagesConfig
from pd_finetune.text.tokens import token_stream, windows

LEAST_MEAN_CI = 1e-3  # rarer ones are seen in a hundred tokens of a usual harvest, or fewer
NEAR = 0.9  # a cosine above it is called the same direction


def held_out(
    target: Target, languages: LanguagesConfig, split: str, rows: int, window: int
) -> Int[Tensor, "rows window"]:
    """Windows of all languages, `rows` of each where there are so many.

    Raises:
        UserError: there are none.
    """
    source = instantiate(languages.source)
    streams = [token_stream(target.tokenizer, source, name, split) for name in languages.all]
    found = np.concatenate([windows(stream, rows, window) for stream in streams])
    if len(found) == 0:
        raise UserError(f"split={split}: no text of a window's {window} tokens")
    return torch.from_numpy(found).to(target.device)


def mean_cis(harvest: Harvest) -> dict[str, Float[Tensor, " C"]]:
    """Mean importance [C] by site, over languages."""
    return {
        str(site): torch.tensor(rows.sort_values("index")["mean_ci"].to_numpy())
        for site, rows in harvest.subcomponents.groupby("site")
    }


def start_cosines(found: Harvested, target: Target) -> dict[tuple[str, int], float]:
    """Cosine of each subcomponent with the one it was at step 0; none where that is unknown."""
    config = found.decomposition.record.get("config", {})
    initial = config.get("initial", "row_space")  # older records: there was no other
    if config.get("start_from") or "seed" not in config or initial not in INITIAL:
        return {}
    own = found.decomposition.components
    start = Subcomponents(own.sites).to(target.device)
    initialise(start, target.model, config["seed"], initial)
    values: dict[tuple[str, int], float] = {}
    for site in own.sites:
        between = cosines(own.V(site), own.U(site), start.V(site), start.U(site))
        values |= {
            (site, index): cosine for index, cosine in enumerate(between.diagonal().tolist())
        }
    return values


def importances(
    found: Harvested, target: Target, ids: Int[Tensor, "rows window"]
) -> dict[str, Float[Tensor, "tokens C"]] | None:
    """Importances [tokens, C] by site; None where their function is not stored."""
    if found.decomposition.stored_ci_function is None:
        return None
    by_site = found.decomposition.causal_importances(target, ids)
    return {site: ci.flatten(0, 1).cpu() for site, ci in by_site.items()}


def matched(
    decompositions: list[Harvested], target: Target, ids: Int[Tensor, "rows window"]
) -> list[pd.DataFrame]:
    """The first with each other: rows of `evidence.stability.matches`, and what harvests say.

    Raises:
        UserError: harvests are of different text, or decompositions of different sites.
    """
    first, *others = decompositions
    for other in others:
        if other.harvest.config["hashes"]["text"] != first.harvest.config["hashes"]["text"]:
            raise UserError(
                f"the harvests of '{first.name}' and '{other.name}' are of other languages or "
                "text: run python -m pd_finetune.harvest on the same for both"
            )
    alone, begun = first.exclusive(), start_cosines(first, target)
    own, frames = importances(first, target, ids), []
    for other in others:
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
        theirs, their_alone = zip(found["site"], found["match"], strict=True), other.exclusive()
        found.insert(0, "pair", f"{first.name}, {other.name}")
        found["exclusive"] = [alone.get(key, "") for key in keys]
        found["match_exclusive"] = [their_alone.get(key, "") for key in theirs]
        found["start_cosine"] = [begun.get(key, math.nan) for key in keys]
        frames.append(found)
    return frames


def _median(values: pd.Series) -> str:
    return "–" if values.isna().all() else f"{values.median():.2f}"


def page(matched: pd.DataFrame, language: str, tokens: int, harvest: Harvest) -> str:
    """A row per pair and group of subcomponents."""
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
