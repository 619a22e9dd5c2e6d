"""Effects: cross-entropy with a subcomponent inverted, on the one language that is its own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from pd_finetune.decomposition.sites import weight_at
from pd_finetune.selection.effect import EFFECT_ROWS, add_effects, add_prices
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.text.tokens import token_stream, windows

from .conftest import WINDOW


def cross_entropy(target, ids: torch.Tensor) -> float:
    with torch.no_grad():
        logits = target.model(input_ids=ids).logits[:, :-1].double()
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item()


def test_the_effect_is_that_of_the_inverted_weight(target, decomposition, source):
    """Against W - 2 U_c V_c^T put in place by hand; the model is clean afterwards."""
    keys = decomposition.all_keys()[3:6]
    table = pd.DataFrame(
        {
            "key": [str(key) for key in keys],
            "exclusive": [True, False, True],
            "top_language": ["de", "de", "en"],
        }
    )
    texts = {
        name: windows(
            token_stream(target.tokenizer, source, name, "train"), EFFECT_ROWS + 2, WINDOW
        )
        for name in ("de", "en")
    }
    before = {n: p.clone() for n, p in target.model.named_parameters()}
    found = add_effects(table, target, decomposition, texts, 4, progress=False)["effect_nats"]
    assert np.isnan(found[1])
    for row in (0, 2):
        key = SubcomponentKey.parse(table["key"][row])
        ids = torch.from_numpy(texts[table["top_language"][row]][:EFFECT_ROWS])
        base = cross_entropy(target, ids)
        weight = weight_at(target.model, decomposition.sites[key.site])
        V, U = decomposition.vectors(key)
        with torch.no_grad():
            kept = weight.clone()
            weight -= 2 * torch.outer(U, V)
            edited = cross_entropy(target, ids)
            weight.copy_(kept)
        assert abs(found[row] - (edited - base)) < 1e-5
        assert abs(edited - base) > 1e-6
    assert all(torch.equal(p, before[n]) for n, p in target.model.named_parameters())


def test_the_price_is_the_worst_damage_where_the_language_is_at_chance(
    target, decomposition, source, monkeypatch
):
    """Against the weight at the scale that was found, put in place by hand."""
    texts = {
        name: windows(token_stream(target.tokenizer, source, name, "train"), EFFECT_ROWS, WINDOW)
        for name in ("de", "en", "fr")
    }
    ids = {name: torch.from_numpy(rows) for name, rows in texts.items()}
    clean = {name: cross_entropy(target, rows) for name, rows in ids.items()}
    keys = decomposition.all_keys()[:12]
    table = pd.DataFrame(
        {
            "key": [str(key) for key in keys],
            "exclusive": True,
            "top_language": "de",
            "effect_nats": np.linspace(1.0, 0.1, len(keys)),
        }
    )
    chance = clean["de"] + 0.2
    monkeypatch.setattr(type(target), "chance_nats", chance)
    found = add_prices(table, target, decomposition, texts, 10, 4, progress=False)
    assert found["price_nats"][10:].isna().all()  # beyond the count
    priced = found.dropna(subset="price_nats")
    assert len(priced) >= 2
    for row in priced.itertuples():
        key = SubcomponentKey.parse(row.key)
        weight = weight_at(target.model, decomposition.sites[key.site])
        V, U = decomposition.vectors(key)
        with torch.no_grad():
            kept = weight.clone()
            weight += (row.price_scale - 1) * torch.outer(U, V)
            after = {name: cross_entropy(target, rows) for name, rows in ids.items()}
            weight.copy_(kept)
        assert abs(after["de"] - chance) < 0.02  # linear between the last two doses
        worst = max(after[name] - clean[name] for name in ("en", "fr"))
        assert abs(row.price_nats - worst) < 1e-5
