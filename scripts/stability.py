r"""Do decompositions of one target, by different seeds, find the same subcomponents?

    python scripts/stability.py embedded runs/seed1 runs/seed2 --out results/decomposition \
        [key=value ...]

The first is compared with each other: at every site, the best match of every subcomponent by the
cosine of the rank-1 matrices, the correlation of the two's importances over held-out text, and, as
a control, the best cosine when the other's U are dealt to its V at random. Subcomponents that fire
for one language alone are looked at by themselves. Writes stability.md, and for each pair a picture
with its numbers, a row per subcomponent (stability_1.csv, ...).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from decomposed import composed, told_apart
from hydra.utils import instantiate

from pd_finetune.config_store import register_schemas
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.evidence.stability import matches
from pd_finetune.decomposition.store import load_decomposition
from pd_finetune.errors import UserError
from pd_finetune.files import make_folder, write_text
from pd_finetune.plots import style
from pd_finetune.plots.evidence import stability
from pd_finetune.quality import held_out_windows
from pd_finetune.runtime import device_of, prepare
from pd_finetune.selection.labels import EXCLUSIVE_MEAN_CI, fires_for, is_exclusive
from pd_finetune.targets.load import Target, load_target

LEAST_MEAN_CI = 1e-3  # rarer ones are seen in a few tokens of this text, or none
NEAR = 0.9  # a cosine above it is called the same direction


def importances(
    target: Target, decomposition: Decomposition, texts: dict[str, torch.Tensor]
) -> dict[str, dict[str, torch.Tensor]]:
    """By language and site, causal importances [tokens, C]."""
    return {
        language: {
            site: ci.flatten(0, 1)
            for site, ci in decomposition.causal_importances(target, ids).items()
        }
        for language, ids in texts.items()
    }


def exclusives(by_language: dict[str, dict[str, torch.Tensor]]) -> dict[tuple[str, int], str]:
    """The language of each subcomponent that fires for it alone."""
    found = {}
    for site in next(iter(by_language.values())):
        means = {name: ci[site].mean(0).tolist() for name, ci in by_language.items()}
        for index in range(len(next(iter(means.values())))):
            own = {name: values[index] for name, values in means.items()}
            if is_exclusive(own):
                found[site, index] = fires_for(own)[0]
    return found


def over_languages(by_language: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Importances by site, the tokens of all languages in a row."""
    sites = next(iter(by_language.values()))
    return {site: torch.cat([ci[site] for ci in by_language.values()]) for site in sites}


def page(matched: pd.DataFrame, language: str, tokens: int) -> str:
    """A row per pair and group of subcomponents."""
    lines = [
        "| pair | subcomponents | number | median cosine | chance | cosine above "
        f"{NEAR:g} | mutual | median correlation of CI | match fires for it alone |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for pair, group in matched.groupby("pair", sort=False):
        groups = {"all": group}
        for code in sorted(set(group["exclusive"]) - {""}, key=lambda c: (c != language, c)):
            groups[f"{style.language_name(code)} alone"] = group[group["exclusive"] == code]
        for name, part in groups.items():
            same = (part["exclusive"] == part["match_exclusive"]) & (part["exclusive"] != "")
            cells = [
                str(pair),
                name,
                f"{len(part):,}",
                f"{part['cosine'].median():.2f}",
                f"{part['control_cosine'].median():.2f}",
                f"{(part['cosine'] > NEAR).mean():.0%}",
                f"{part['mutual'].mean():.0%}",
                f"{part['correlation'].median():.2f}",
                "–" if name == "all" else f"{same.mean():.0%}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    table = "\n".join(lines)
    return (
        "# The same subcomponents by another seed?\n\n"
        "Each subcomponent of the first decomposition and its best match, by the cosine of the "
        "rank-1 matrices, at the\nsame site of the second. *Chance*: the best cosine when the "
        "second's U are dealt to its V at random. *Mutual*: the\nmatch's own best match is the "
        "first. *Correlation*: of the two's causal importances over tokens.\n"
        f"Held-out text, {tokens:,} tokens; mean CI of {LEAST_MEAN_CI:g} or more. *Alone*: fires "
        f"for one language (mean CI {EXCLUSIVE_MEAN_CI:g} or more,\nten times any other's).\n\n"
        f"{table}\n"
    )


def main() -> None:
    """Match the first decomposition with the others."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("first", help="folder of a decomposition; embedded: the one that ships")
    parser.add_argument("others", nargs="+", help="folders of others of the same target")
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
    if options.language not in config.languages.all:
        possible = ", ".join(config.languages.all)
        raise UserError(f"--language {options.language}: possible are {possible}")
    first = load_decomposition(options.first, target)
    held_out = held_out_windows(config, target, source, first.window)
    texts = {
        language: torch.from_numpy(rows).to(target.device) for language, rows in held_out.items()
    }
    own = importances(target, first, texts)
    alone = exclusives(own)
    out, parts = make_folder(options.out), []
    for number, folder in enumerate(options.others, 1):
        other = load_decomposition(folder, target)
        theirs = importances(target, other, texts)
        their_alone = exclusives(theirs)
        found = matches(
            first.components,
            over_languages(own),
            other.components,
            over_languages(theirs),
            LEAST_MEAN_CI,
        )
        keys = zip(found["site"], found["index"], strict=True)
        found["exclusive"] = [alone.get(key, "") for key in keys]
        keys = zip(found["site"], found["match"], strict=True)
        found["match_exclusive"] = [their_alone.get(key, "") for key in keys]
        found.insert(0, "pair", f"{_name(options.first)}, {_name(folder)}")
        style.save(stability.draw(found, options.language), out, f"stability_{number}")
        parts.append(found)
    matched = pd.concat(parts, ignore_index=True)
    tokens = int(np.sum([ids.numel() for ids in texts.values()]))
    text = page(matched, options.language, tokens)
    write_text(out / "stability.md", text)
    print(text)


def _name(folder: str) -> str:
    return folder if folder == "embedded" else Path(folder).name


if __name__ == "__main__":
    main()
