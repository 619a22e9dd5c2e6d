r"""Do decompositions of one target, by different seeds, find the same subcomponents?

    python scripts/stability.py embedded runs/seed1 runs/seed2 --out results/decomposition \
        [key=value ...]

The first is compared with each other: at every site, the best match of every subcomponent by the
cosine of the rank-1 matrices, the correlation of the two's importances over held-out text (where
both are stored with what predicts them), and, as a control, the best cosine when the other's U are
dealt to its V at random. Which are alive, and which fire for one language alone, their harvests
say. Writes stability.md, and for each pair a picture with its numbers, a row per subcomponent
(stability_1.csv, ...).
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from decomposed import composed, told_apart
from hydra.utils import instantiate
from torch import Tensor

from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.evidence.stability import cosines, matches
from pd_finetune.decomposition.folder import SHIPPED, decomposition_folder
from pd_finetune.decomposition.initialise import initialise
from pd_finetune.decomposition.store import load_decomposition
from pd_finetune.errors import UserError
from pd_finetune.files import make_folder, write_text
from pd_finetune.plots import style
from pd_finetune.plots.evidence import stability
from pd_finetune.quality import held_out_windows
from pd_finetune.runtime import device_of, prepare
from pd_finetune.selection.labels import EXCLUSIVE_MEAN_CI
from pd_finetune.selection.store import Harvest, load_harvest
from pd_finetune.targets.load import Target, load_target

LEAST_MEAN_CI = 1e-3  # rarer ones are seen in a hundred tokens of a usual harvest, or fewer
_MORE = ("start_cosine", "correlation", "best_correlation")
NEAR = 0.9  # a cosine above it is called the same direction


@dataclass
class Found:
    """One of the decompositions, and what its harvest says."""

    name: str
    decomposition: Decomposition
    harvest: Harvest

    @classmethod
    def of(cls, folder: str, target: Target) -> Found:
        """Load both; the harvest stands beside the decomposition."""
        decomposition = load_decomposition(folder, target)
        beside = decomposition_folder(folder) / "harvest"
        harvest = load_harvest(beside, target, decomposition)
        if missing := set(decomposition.sites) - set(harvest.config["sites"]):
            raise UserError(f"the harvest in '{beside}' lacks {', '.join(sorted(missing))}")
        name = folder if folder in SHIPPED else Path(folder).name
        return cls(name, decomposition, harvest)

    def mean_ci(self) -> dict[str, Tensor]:
        """Mean importance [C] by site, over languages."""
        table = self.harvest.subcomponents
        return {
            str(site): torch.tensor(rows.sort_values("index")["mean_ci"].to_numpy())
            for site, rows in table.groupby("site")
        }

    def exclusive(self) -> dict[tuple[str, int], str]:
        """The language of each subcomponent that fires for it alone."""
        rows = self.harvest.subcomponents
        rows = rows[rows["exclusive"]]
        keys = zip(rows["site"], rows["index"], strict=True)
        return dict(zip(keys, rows["top_language"], strict=True))

    def begun(self, target: Target) -> dict[tuple[str, int], float]:
        """Cosine of each subcomponent with the one it was at step 0; none where that is unknown."""
        config = self.decomposition.record.get("config", {})
        if config.get("start_from") or "seed" not in config:
            return {}
        initial = config.get("initial", "row_space")  # older records: there was no other
        own = self.decomposition.components
        start = Subcomponents(own.sites).to(target.device)
        initialise(start, target.model, config["seed"], initial)
        found = {}
        for site in own.sites:
            between = cosines(own.V(site), own.U(site), start.V(site), start.U(site))
            values = between.diagonal().tolist()
            found |= {(site, index): value for index, value in enumerate(values)}
        return found

    def importances(self, target: Target, ids: Tensor) -> dict[str, Tensor] | None:
        """Importances [tokens, C] by site; None where their function is not stored."""
        if self.decomposition.stored_ci_function is None:
            return None
        found = self.decomposition.causal_importances(target, ids)
        return {site: ci.flatten(0, 1).cpu() for site, ci in found.items()}


def keys_of(found: pd.DataFrame, column: str = "index") -> list[tuple[str, int]]:
    """Site and index of each row."""
    return list(zip(found["site"], found[column], strict=True))


def _median(values: pd.Series) -> str:
    return "–" if values.isna().all() else f"{values.median():.2f}"


def page(matched: pd.DataFrame, language: str, tokens: int, harvest: Harvest) -> str:
    """A row per pair and group of subcomponents."""
    lines = [
        "| pair | subcomponents | number | median cosine | chance | cosine above "
        f"{NEAR:g} | mutual | with own start | correlation of CI | best correlation | "
        "match fires for it alone |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for pair, group in matched.groupby("pair", sort=False):
        groups = {"all": group}
        for code in sorted(set(group["exclusive"]) - {""}, key=lambda c: (c != language, c)):
            groups[f"{style.language_name(code)} alone"] = group[group["exclusive"] == code]
        for group_name, part in groups.items():
            same = (part["exclusive"] == part["match_exclusive"]) & (part["exclusive"] != "")
            cells = [
                str(pair),
                group_name,
                f"{len(part):,}",
                _median(part["cosine"]),
                _median(part["control_cosine"]),
                f"{(part['cosine'] > NEAR).mean():.0%}",
                f"{part['mutual'].mean():.0%}",
                *(_median(part[name]) for name in _MORE),
                "–" if group_name == "all" else f"{same.mean():.0%}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    table = "\n".join(lines)
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
        f"{table}\n"
    )


def main() -> None:
    """Match the first decomposition with the others."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("first", help="folder of a decomposition, with its harvest; or embedded")
    parser.add_argument("others", nargs="+", help="folders of others, likewise")
    parser.add_argument("--out", type=Path, default=Path("results/decomposition"))
    parser.add_argument("--rows", type=int, default=64, help="held-out windows of each language")
    parser.add_argument("--language", default="de", help="whose subcomponents are marked")
    own, words = told_apart(sys.argv[1:])
    options = parser.parse_args(own)
    register_schemas()
    try:
        run(options, words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def run(options: argparse.Namespace, words: list[str]) -> None:
    """As `main`, with parsed options and words for model, languages, device and threads."""
    config = composed("quality", ["out=unused", f"rows_per_language={options.rows}", *words])
    prepare(config.threads)
    target = load_target(config.model.folder, device_of(config.device), config.model.dtype)
    source = instantiate(config.languages.source)
    first = Found.of(options.first, target)
    if options.language not in first.harvest.languages:
        possible = ", ".join(first.harvest.languages)
        raise UserError(f"--language {options.language}: possible are {possible}")
    held_out = held_out_windows(config, target, source, first.decomposition.window)
    ids = torch.from_numpy(np.concatenate(list(held_out.values()))).to(target.device)
    mean_ci, alone, begun = first.mean_ci(), first.exclusive(), first.begun(target)
    own = first.importances(target, ids)
    others = [Found.of(name, target) for name in options.others]
    out, parts = make_folder(options.out), []
    for number, (folder, other) in enumerate(zip(options.others, others, strict=True), 1):
        if other.harvest.config["hashes"]["text"] != first.harvest.config["hashes"]["text"]:
            raise UserError(
                f"the harvests of '{options.first}' and '{folder}' are of other languages or text: "
                "run python -m pd_finetune.harvest on the same for both"
            )
        found = matches(
            first.decomposition.components.cpu(),
            mean_ci,
            other.decomposition.components.cpu(),
            other.mean_ci(),
            LEAST_MEAN_CI,
            own,
            None if own is None else other.importances(target, ids),
        )
        found["exclusive"] = [alone.get(key, "") for key in keys_of(found)]
        their_alone = other.exclusive()
        found["match_exclusive"] = [their_alone.get(key, "") for key in keys_of(found, "match")]
        found.insert(0, "pair", f"{first.name}, {other.name}")
        found["start_cosine"] = [begun.get(key, math.nan) for key in keys_of(found)]
        style.save(stability.draw(found, options.language), out, f"stability_{number}")
        parts.append(found)
    matched = pd.concat(parts, ignore_index=True)
    text = page(matched, options.language, ids.numel(), first.harvest)
    write_text(out / "stability.md", text)
    print(text)


if __name__ == "__main__":
    main()
