"""Running a target and its decomposition over text in several languages and keeping statistics."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from pd_finetune.decomposition.components import recorded_inputs
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.sites import Site
from pd_finetune.errors import UserError
from pd_finetune.runtime import autocast
from pd_finetune.selection.effect import add_effects, add_prices
from pd_finetune.selection.labels import LIVE_MEAN_CI, add_labels
from pd_finetune.selection.statistics import (
    STRONG_FIRING,
    TOP_TOKENS,
    ActivationStatistics,
    CIStatistics,
    TokenStatistics,
    TopExamples,
)
from pd_finetune.selection.store import Harvest, identity, load_harvest, save_harvest
from pd_finetune.selection.tables import (
    TOKEN_COLUMNS,
    Group,
    Rows,
    example_table,
    subcomponent_table,
    token_tables,
)
from pd_finetune.targets.keys import canonical_site
from pd_finetune.targets.load import Target
from pd_finetune.text.tokens import DocumentSource, token_stream, windows

__all__ = ["Harvest", "harvest", "load_harvest", "save_harvest"]


def site_groups(
    sites: list[Site], vocab: int, max_count_bytes: int, token_statistics: bool
) -> list[list[Site]]:
    """Cut sites, in order, into groups whose dense token counts fit in `max_count_bytes`.

    Every group costs one pass over the text: 38,912 subcomponents by 50,277 tokens take 15.7 GB,
    so 9 passes at 2 GiB.

    Raises:
        UserError: one site alone does not fit.
    """
    if not token_statistics:
        return [sites]
    groups: list[list[Site]] = [[]]
    filled = 0
    for site in sites:
        size = site.C * vocab * TokenStatistics.BYTES_PER_ENTRY
        if size > max_count_bytes:
            raise UserError(
                f"token statistics of {site.name} ({site.C} subcomponents x {vocab} tokens) take "
                f"{size:,} bytes, above max_count_bytes={max_count_bytes:,}: raise it, leave the "
                "site out with `only`, or set token_statistics=false"
            )
        if groups[-1] and filled + size > max_count_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(site)
        filled += size
    return groups


def _chosen_sites(decomposition: Decomposition, only: list[str] | None) -> list[Site]:
    wanted = None if only is None else {canonical_site(name) for name in only}
    unknown = (wanted or set()) - set(decomposition.sites)
    if unknown or (wanted is not None and not wanted):
        raise UserError(
            f"no site '{', '.join(sorted(unknown))}' in this decomposition; "
            f"there are: {', '.join(decomposition.ci_function.order)}"
        )
    return [
        decomposition.sites[name]
        for name in decomposition.ci_function.order
        if wanted is None or name in wanted
    ]


def _read_rows(
    target: Target, source: DocumentSource, languages: list[str], split: str, rows: int, window: int
) -> Rows:
    if len(set(languages)) != len(languages) or len(languages) < 2:
        raise UserError(
            f"harvest languages [{', '.join(languages)}]: give two or more different ones, "
            "a subcomponent is told apart by comparing them"
        )
    if rows < 1:
        raise UserError(f"rows_per_language={rows} must be at least 1")
    texts = {}
    for language in languages:
        stream = token_stream(target.tokenizer, source, language, split)
        texts[language] = windows(stream, rows, window)
        if len(texts[language]) == 0:
            raise UserError(
                f"the {split} text of '{language}' has {len(stream)} tokens, less than one window "
                f"of {window}: choose another split or leave '{language}' out"
            )
    return texts


_FORWARD_BYTES = 2**29
# outputs of the CI function's trunk, by language and first row of the batch
Trunks = dict[tuple[int, int], Tensor]


def _trunk_width(decomposition: Decomposition) -> int:
    return int(decomposition.ci_function.output_head.in_features)


def _rows_at_once(batch: int, window: int, widths: int) -> int:
    """`batch`, or fewer where `widths` numbers a token would take over half a GiB."""
    return max(1, min(batch, _FORWARD_BYTES // (4 * window * widths)))


@torch.no_grad()
def _pass(
    target: Target,
    decomposition: Decomposition,
    texts: Rows,
    group: Group,
    batch: int,
    precision: str,
    bar: tqdm[Any],
    trunks: Trunks | None = None,
) -> None:
    """One pass over all text for one group of sites; float32 sums whatever the precision.

    Args:
        trunks: taken from where filled, filled elsewhere; None: made and forgotten.
    """
    device = target.model.device
    components, function = decomposition.components, decomposition.ci_function
    norms = {name: components.U(name).float().norm(dim=1) for name in group.sites}
    needed = set(group.sites) if trunks else set(function.inputs) | set(group.sites)
    run: Any = target.model.base_model if group.tokens is None else target.model
    for index, (language, rows) in enumerate(texts.items()):
        bar.set_postfix(language=language)
        for start in range(0, len(rows), batch):
            ids: Int[Tensor, "rows pos"] = torch.from_numpy(rows[start : start + batch]).to(device)
            with autocast(device, precision):
                with recorded_inputs(target.model, decomposition.sites, needed) as inputs:
                    output = run(input_ids=ids, use_cache=False)
                x = trunks.get((index, start)) if trunks else None
                x = function.trunk(inputs) if x is None else x.to(device)
                if trunks is not None:
                    trunks[index, start] = x.cpu()
                by_site = function.importances_from(x, group.sites)
                inner = [
                    inputs[n].to(components.V(n).dtype) @ components.V(n) * norms[n]
                    for n in group.sites
                ]
                ci = torch.cat([by_site[name] for name in group.sites], -1).float()
                firing = group.ci.add(index, ci.flatten(0, 1))
                group.examples.add(index, start, ci)
                group.activations.add(torch.cat(inner, -1).float().flatten(0, 1))
                if group.tokens is not None:
                    group.tokens.add(ids.flatten(), output.logits.flatten(0, 1), firing)
            bar.update(ids.numel())


def harvest(
    target: Target,
    decomposition: Decomposition,
    source: DocumentSource,
    languages: list[str],
    rows_per_language: int,
    split: str = "train",
    batch: int = 16,
    *,
    threshold: float = 0.0,
    only: list[str] | None = None,
    token_statistics: bool = True,
    effects: bool = True,
    prices: int = 0,
    max_count_bytes: int = 2 * 2**30,
    examples: int = 5,
    context_tokens: int = 8,
    precision: str = "float32",
    progress: bool = True,
) -> Harvest:
    """Causal importance and firing by language, tokens in and out, examples per subcomponent.

    Text is read in windows of `decomposition.window` tokens, the length that the causal-importance
    function knows; a stream that is too short gives fewer rows, and means are per token.

    Args:
        languages: two or more; token statistics are pooled over them.
        rows_per_language: windows of each language.
        batch: windows per forward, fewer where logits and CIs [batch, window, subcomponents] of so
            many would take over half a GiB.
        threshold: a subcomponent fires where its CI is above this.
        only: sites to harvest; None: all.
        token_statistics: whether to count tokens in and out (labels then name languages alone).
        effects: whether to measure what inverting each exclusive subcomponent does (a forward of
            16 windows for each); `effect_nats` is nan without.
        prices: of how many subcomponents of largest effect, by language, to measure what chance
            costs; nan for the others.
        max_count_bytes: bound on dense token counts; above it the text is read several times. What
            the CI function's trunk gave is kept between them where it fits in as many bytes.
        examples: top activating examples per subcomponent, each from another window.
        context_tokens: tokens shown before and after an example's position.
        precision: float32, bfloat16 or auto (bfloat16 blurs which CIs near 0 count as firing).

    Raises:
        UserError: too few languages, no text, an unknown site, counts that do not fit, or CIs that
            are not finite.
    """
    import pandas as pd

    started = time.monotonic()
    sites = _chosen_sites(decomposition, only)
    texts = _read_rows(target, source, languages, split, rows_per_language, decomposition.window)
    vocab = int(target.model.get_output_embeddings().weight.shape[0])
    groups = site_groups(sites, vocab, max_count_bytes, token_statistics)
    device, n = target.model.device, len(languages)
    tokens_per_language = {language: int(rows.size) for language, rows in texts.items()}
    tables, token_rows, example_rows = [], [], []
    widest = max(sum(site.C for site in members) for members in groups)
    at_once = _rows_at_once(
        batch, decomposition.window, widest + (vocab if token_statistics else 0)
    )
    # of a pass, the trunk is nearly all of the cost: it runs once where its outputs can be kept
    kept_bytes = 4 * sum(tokens_per_language.values()) * _trunk_width(decomposition)
    trunks: Trunks | None = {} if len(groups) > 1 and kept_bytes <= max_count_bytes else None
    with tqdm(
        total=len(groups) * sum(tokens_per_language.values()),
        desc="harvest",
        unit="token",
        unit_scale=True,
        disable=not progress,
    ) as bar:
        for members in groups:
            C = sum(site.C for site in members)
            group = Group(
                [site.name for site in members],
                CIStatistics(n, C, threshold, device),
                ActivationStatistics(C, device),
                TokenStatistics(C, vocab, device) if token_statistics else None,
                TopExamples(n, C, examples, device),
            )
            _pass(target, decomposition, texts, group, at_once, precision, bar, trunks)
            table = pd.DataFrame(subcomponent_table(decomposition, group, texts))
            if not np.isfinite(table["mean_ci"]).all():
                raise UserError(
                    f"causal importances at {', '.join(group.sites)} are not all finite: "
                    "target and decomposition do not fit together, or are damaged"
                )
            keys = table["key"].tolist()
            tables.append(table)
            token_rows += token_tables(target, group, keys)
            example_rows.append(example_table(target, group, keys, texts, context_tokens))
            del group  # or its counts would stay while those of the next are made
    tokens = pd.concat(token_rows, ignore_index=True) if token_rows else pd.DataFrame()
    tokens = tokens.reindex(columns=TOKEN_COLUMNS)
    subcomponents = add_labels(pd.concat(tables, ignore_index=True), tokens, languages)
    if effects:
        subcomponents = add_effects(subcomponents, target, decomposition, texts, batch, progress)
    else:
        subcomponents = subcomponents.assign(effect_nats=np.nan)
    subcomponents = add_prices(
        subcomponents, target, decomposition, texts, prices if effects else 0, batch, progress
    )
    config = {
        "languages": list(languages),
        "tokens_per_language": tokens_per_language,
        "rows_per_language": rows_per_language,
        "window": decomposition.window,
        "split": split,
        "sites": [site.name for site in sites],
        "vocab_size": vocab,
        "thresholds": {
            "firing_ci": threshold,
            "strong_firing_ci": STRONG_FIRING,
            "live_mean_ci": LIVE_MEAN_CI,
        },
        "token_statistics": token_statistics,
        "top_tokens": TOP_TOKENS,
        "precision": precision,
        "passes": len(groups),
        "seconds": round(time.monotonic() - started, 2),
        "hashes": {
            **identity(target, decomposition),
            "text": {language: source.fingerprint(language) for language in languages},
        },
    }
    return Harvest(subcomponents, tokens, pd.concat(example_rows, ignore_index=True), config)
