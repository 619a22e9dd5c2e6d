"""The tables of a harvest, made from the statistics of one group of sites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.selection.labels import decode_tokens
from pd_finetune.selection.statistics import (
    ActivationStatistics,
    CIStatistics,
    TokenStatistics,
    TopExamples,
)
from pd_finetune.targets.load import Target

if TYPE_CHECKING:
    import pandas as pd

Rows = dict[str, Int[np.ndarray, "rows window"]]  # windows of token ids by language
TOKEN_COLUMNS = ["key", "side", "token", "token_id", "pmi", "count", "pmi_rank", "weight_rank"]


@dataclass
class Group:
    """Statistics of some sites, taken in one pass over the text."""

    sites: list[str]
    ci: CIStatistics
    activations: ActivationStatistics
    tokens: TokenStatistics | None
    examples: TopExamples


def subcomponent_table(
    decomposition: Decomposition, group: Group, texts: Rows
) -> dict[str, np.ndarray | list[str]]:
    """Columns of `Harvest.subcomponents` (without labels) for one group."""
    columns: dict[str, Any] = {"key": [], "site": [], "index": [], "norm": []}
    for name in group.sites:
        C = decomposition.sites[name].C
        columns["key"] += [f"{name}:{index}" for index in range(C)]
        columns["site"] += [name] * C
        columns["index"] += range(C)
        V, U = decomposition.components.V(name), decomposition.components.U(name)
        norm = V.detach().double().norm(dim=0) * U.detach().double().norm(dim=1)
        columns["norm"] += norm.tolist()
    means = {}
    for i, (language, rows) in enumerate(texts.items()):
        means[language] = (group.ci.ci[i] / rows.size).cpu().numpy()
        columns[f"mean_ci_{language}"] = means[language]
        columns[f"firing_{language}"] = (group.ci.firing[i].double() / rows.size).cpu().numpy()
        columns[f"strong_firing_{language}"] = (
            (group.ci.strong[i].double() / rows.size).cpu().numpy()
        )
    total = sum(rows.size for rows in texts.values())
    columns["mean_ci"] = np.mean(list(means.values()), axis=0)
    columns["mean_activation"] = (group.activations.signed / total).cpu().numpy()
    columns["mean_abs_activation"] = (group.activations.absolute / total).cpu().numpy()
    return columns


def token_tables(target: Target, group: Group, keys: list[str]) -> list[pd.DataFrame]:
    import pandas as pd

    frames = []
    for side, top in group.tokens.top().items() if group.tokens else ():
        pieces = decode_tokens(target.tokenizer, top.token_id.unique().tolist())
        ids = top.token_id.tolist()
        frames.append(
            pd.DataFrame(
                {
                    "key": np.array(keys, object)[top.subcomponent.numpy()],
                    "side": side,
                    "token": [pieces.get(i, "") for i in ids],
                    "token_id": ids,
                    "pmi": top.pmi.numpy(),
                    "count": top.count.double().numpy(),
                    "pmi_rank": top.pmi_rank.numpy(),
                    "weight_rank": top.weight_rank.numpy(),
                }
            )
        )
    return frames


def example_table(
    target: Target, group: Group, keys: list[str], texts: Rows, context: int
) -> pd.DataFrame:
    import pandas as pd

    best = {name: values.numpy() for name, values in group.examples.best().items()}
    column, rank = (max(group.ci.threshold, 0.0) < best["ci"].T).nonzero()
    names = list(texts)
    picked = {name: values[rank, column] for name, values in best.items()}
    spans: dict[str, list[list[int]]] = {"before": [], "at": [], "after": []}
    for language, row, position in zip(
        picked["language"], picked["row"], picked["position"], strict=True
    ):
        ids = texts[names[language]][row].tolist()
        spans["before"].append(ids[max(0, position - context) : position])
        spans["at"].append([ids[position]])
        spans["after"].append(ids[position + 1 : position + 1 + context])
    decode = target.tokenizer.decode_batch
    return pd.DataFrame(
        {
            "key": np.array(keys, object)[column],
            "rank": rank + 1,
            "language": np.array(names, object)[picked["language"]],
            "row": picked["row"],
            "position": picked["position"],
            **{name: decode(ids, skip_special_tokens=False) for name, ids in spans.items()},
            "ci": picked["ci"].astype(np.float64),
        }
    )
