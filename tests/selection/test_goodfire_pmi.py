"""Our PMI from Goodfire's token counts against the PMI lists that their own code stored."""

from __future__ import annotations

import json
import sqlite3

import pytest
import torch

from pd_finetune.selection.statistics import TokenStatistics, pmi, top_tokens


@pytest.fixture(scope="module")
def stored(goodfire_fixture):
    (folder,) = (goodfire_fixture / "harvest").glob("s-*/h-*")
    stats = torch.load(folder / "token_stats.pt", weights_only=True)
    with sqlite3.connect(f"file:{folder / 'harvest.db'}?immutable=1", uri=True) as connection:
        rows = connection.execute(
            "SELECT component_key, input_token_pmi, output_token_pmi FROM components"
        ).fetchall()
    assert rows
    return stats, [(key, json.loads(into), json.loads(out)) for key, into, out in rows]


@pytest.mark.parametrize(("side", "column"), [("input", 1), ("output", 2)])
def test_pmi_equals_goodfires(stored, side, column):
    stats, rows = stored
    counts, totals = stats[f"{side}_counts"], stats[f"{side}_totals"]
    fired, tokens = stats["firing_counts"], stats["n_tokens"]
    values = pmi(counts, fired, totals, tokens)
    top = top_tokens(counts, fired, totals, tokens, k=5)
    for row in rows:
        index = stats["component_keys"].index(row[0])
        for token, expected in row[column]["top"] + row[column]["bottom"]:
            assert values[index, token].item() == pytest.approx(expected, abs=1e-4)
        listed = (top.subcomponent == index) & (top.pmi_rank > 0)
        ours = top.pmi[listed][top.pmi_rank[listed].argsort()].tolist()
        assert ours == pytest.approx([value for _, value in row[column]["top"]], abs=1e-4)


def test_counts_equal_goodfires_from_their_tokens(goodfire_fixture, stored):
    """Which tokens they counted as input, at every position of every batch."""
    import numpy as np

    stats, _ = stored
    tokens = np.load(goodfire_fixture / "harvest" / "harvest_tokens.npz")
    ids = torch.from_numpy(tokens["tokens"]).flatten().long()
    ours = TokenStatistics(1, stats["vocab_size"], torch.device("cpu"))
    ours.add(ids, torch.zeros(len(ids), stats["vocab_size"]), torch.ones(len(ids), 1).bool())
    assert ours.tokens == stats["n_tokens"]
    assert ours.input_totals.tolist() == stats["input_totals"].tolist()
    assert ours.inputs[0].tolist() == stats["input_totals"].tolist()
