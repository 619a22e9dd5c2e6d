"""Selectors: what they choose, in which order, and every refusal."""

from __future__ import annotations

import inspect

import numpy as np
import pandas as pd
import pytest

from pd_finetune.errors import UserError
from pd_finetune.selection.labels import add_labels
from pd_finetune.selection.rank import select_keys, select_label, select_random, select_top
from pd_finetune.selection.store import Harvest
from pd_finetune.selection.tables import TOKEN_COLUMNS
from pd_finetune.targets.keys import SubcomponentKey
from tests import composed

SITE = "h.0.mlp.c_fc"  # nine subcomponents in the tiny decomposition
#      de    en    fr
MEANS = [
    (0.90, 0.70, 0.10),  # 0
    (0.80, 0.01, 0.02),  # 1: German alone
    (0.60, 0.001, 0.001),  # 2: German alone, highest share
    (0.02, 0.0, 0.0),  # 3: German, but rare
    (0.00, 0.50, 0.00),  # 4: English alone
    (0.00, 0.00, 0.00),  # 5: dead
    (0.50, 0.00, 0.40),  # 6: German and French
    (0.30, 0.30, 0.30),  # 7
    (0.50, 0.00, 0.40),  # 8: as 6
]


def made(rows, decomposition, effects=None) -> Harvest:
    table = pd.DataFrame(rows, columns=["mean_ci_de", "mean_ci_en", "mean_ci_fr"])
    table.insert(0, "key", [f"{SITE}:{i}" for i in range(len(rows))])
    table.insert(1, "site", SITE)
    table.insert(2, "index", range(len(rows)))
    table["mean_ci"] = table[["mean_ci_de", "mean_ci_en", "mean_ci_fr"]].mean(axis=1)
    languages = ["de", "en", "fr"]
    config = {
        "languages": languages,
        "tokens_per_language": {"de": 1000, "en": 2000, "fr": 3000},
        "hashes": {"decomposition": decomposition.hash},
    }
    tokens = pd.DataFrame(columns=TOKEN_COLUMNS)
    labelled = add_labels(table, tokens, languages).assign(effect_nats=effects or 0.1)
    return Harvest(labelled, tokens, pd.DataFrame(), config)


@pytest.fixture
def harvest(decomposition):
    return made(MEANS, decomposition)


def indices(selection) -> list[int]:
    return [key.index for key in selection.keys]


def test_effects_that_were_not_measured_choose_nothing(decomposition):
    without = made(MEANS, decomposition, effects=float("nan"))
    with pytest.raises(UserError, match="choose=share, or run .* with effects=true"):
        select_label(without, decomposition, "de", 0, choose="effect")


def test_top_orders_by_difference_and_breaks_ties_by_key(harvest, decomposition):
    chosen = select_top(harvest, decomposition, "de", 0, count=5, contrast="en")
    assert indices(chosen) == [1, 2, 6, 8, 0]
    assert chosen.keys[0] == SubcomponentKey(SITE, 1)
    assert chosen.selection_tokens == 1000
    assert chosen.candidates["chosen"].sum() == 5
    assert chosen.candidates["difference"].is_monotonic_decreasing
    assert "top 5 by mean CI on de minus on en" in chosen.reason


def test_top_refuses(harvest, decomposition):
    with pytest.raises(UserError, match="count=7: 6 subcomponents have a higher mean CI on de"):
        select_top(harvest, decomposition, "de", 0, count=7, contrast="en")
    with pytest.raises(UserError, match="contrast=de is the target language: choose one of en, fr"):
        select_top(harvest, decomposition, "de", 0, count=1, contrast="de")
    with pytest.raises(UserError, match="contrast=xx is not in the harvest; possible: de, en, fr"):
        select_top(harvest, decomposition, "de", 0, count=1, contrast="xx")


def test_label_takes_the_highest_share_among_exclusive_ones(harvest, decomposition):
    chosen = select_label(harvest, decomposition, "de", 0, choose="share")
    assert indices(chosen) == [2]
    assert chosen.candidates["key"].tolist() == [f"{SITE}:2", f"{SITE}:1"]
    assert chosen.reason.endswith("German text") and chosen.selection_tokens == 1000
    assert indices(select_label(harvest, decomposition, "en", 0, choose="only")) == [4]


def test_label_takes_the_largest_effect_among_exclusive_ones(decomposition):
    # 0 and 6 are not German alone, whatever their effect
    effects = [9.0, 0.2, 0.1, 0.3, 5.0, 0.0, 8.0, 0.4, 7.0]
    made_with = made(MEANS, decomposition, effects)
    chosen = select_label(made_with, decomposition, "de", 0, choose="effect")
    assert indices(chosen) == [1]
    assert chosen.candidates["key"].tolist() == [f"{SITE}:1", f"{SITE}:2"]
    assert chosen.reason.startswith("largest effect of its inversion on de among 2")


def test_label_takes_the_cheapest_where_prices_decide(decomposition):
    harvest = made(MEANS, decomposition, [0.0, 0.1, 0.9, *[0.0] * 6])
    with pytest.raises(UserError, match="no price of chance for de: run .* with prices=8"):
        select_label(harvest, decomposition, "de", 0, choose="price")
    table = harvest.subcomponents.assign(price_nats=np.nan)
    table.loc[[1, 4], "price_nats"] = [0.3, 0.01]  # 4 is of another language
    harvest.subcomponents = table
    chosen = select_label(harvest, decomposition, "de", 0, choose="price")
    assert indices(chosen) == [1]  # 2 has the larger effect, and never reaches chance
    assert "least damage" in chosen.reason and chosen.selection_tokens == 1000


def test_label_of_the_whole_language_goes_before_some_of_it(decomposition):
    rows = [(0.49, 0.0, 0.0), (0.51, 0.04, 0.0)]
    chosen = select_label(made(rows, decomposition), decomposition, "de", 0, choose="share")
    assert indices(chosen) == [1]
    assert chosen.candidates["label"].tolist() == ["German text", "some German text"]


def test_label_breaks_ties_by_mean_ci_then_key(decomposition):
    rows = [(0.4, 0.0, 0.0), (0.6, 0.0, 0.0), (0.6, 0.0, 0.0)]
    chosen = select_label(made(rows, decomposition), decomposition, "de", 0, choose="share")
    assert indices(chosen) == [1]


def test_label_refuses(harvest, decomposition):
    with pytest.raises(UserError, match="2 subcomponents are labelled as de alone: .*:2 .*:1 "):
        select_label(harvest, decomposition, "de", 0, choose="only")
    with pytest.raises(UserError) as refused:
        select_label(harvest, decomposition, "fr", 0, choose="share")
    assert "no subcomponent is labelled as fr alone" in str(refused.value)
    assert f"nearest: {SITE}:6 (share 0.44, mean CI 0.4)" in str(refused.value)
    with pytest.raises(UserError, match="nearest: none is alive on it"):
        rows = [(0.5, 0.1, 0.0)]
        select_label(made(rows, decomposition), decomposition, "fr", 0, choose="share")
    with pytest.raises(UserError, match="choose=best: possible are effect, price, share, only"):
        select_label(harvest, decomposition, "de", 0, choose="best")


def test_keys_are_checked_and_need_no_harvest(harvest, decomposition):
    spelled = ["model.layers.0.mlp.up_proj:3", "0.attn.v:1"]
    for given in (None, harvest):
        chosen = select_keys(given, decomposition, "de", 0, keys=spelled)
        assert chosen.keys == [SubcomponentKey(SITE, 3), SubcomponentKey("h.0.attn.v_proj", 1)]
        assert len(chosen.candidates) == 2 and chosen.selection_tokens == 0
    assert chosen.candidates["label"].tolist()[0] == "rare, German text"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([], r"selection.keys=\[\]: give a list of one or more keys"),
        ("h.0.mlp.c_fc:3", "selection.keys=h.0.mlp.c_fc:3: give a list"),
        (["h.0.mlp.c_fc"], "'h.0.mlp.c_fc' is no subcomponent key"),
        (["h.7.mlp.c_fc:0"], "no site 'h.7.mlp.c_fc'"),
        (["h.0.mlp.c_fc:9"], "indices at h.0.mlp.c_fc run from 0 to 8"),
        (["h.0.mlp.c_fc:3", "0.mlp.up:3"], "names h.0.mlp.c_fc:3 more than once"),
    ],
)
def test_keys_refuse(decomposition, keys, message):
    with pytest.raises(UserError, match=message):
        select_keys(None, decomposition, "de", 0, keys=keys)


def test_random_draws_live_ones_that_are_not_the_targets_own(harvest, decomposition):
    pool = {0, 3, 4, 6, 7, 8}
    drawn = [select_random(harvest, decomposition, "de", s, count=2) for s in range(40)]
    assert {i for chosen in drawn for i in indices(chosen)} == pool
    assert all(len(set(indices(chosen))) == 2 for chosen in drawn)
    again = select_random(harvest, decomposition, "de", 7, count=2)
    assert again.keys == drawn[7].keys
    with pytest.raises(UserError, match="count=7: 6 live subcomponents are not exclusive to de"):
        select_random(harvest, decomposition, "de", 0, count=7)


CALLS = [
    (select_top, {"count": 1, "contrast": "en"}),
    (select_label, {"choose": "share"}),
    (select_label, {"choose": "effect"}),
    (select_random, {"count": 1}),
]


@pytest.mark.parametrize(("select", "own"), CALLS)
def test_a_fitting_harvest_is_needed(harvest, decomposition, select, own):
    with pytest.raises(UserError, match="needs a harvest and there is none"):
        select(None, decomposition, "de", 0, **own)
    with pytest.raises(UserError, match="languages.target=xx is not in the harvest"):
        select(harvest, decomposition, "xx", 0, **own)
    harvest.config["hashes"]["decomposition"] = "0"
    with pytest.raises(UserError, match="of another decomposition"):
        select(harvest, decomposition, "de", 0, **own)


def test_the_config_dataclasses_name_these_functions_and_their_parameters():
    from dataclasses import fields

    from hydra.utils import get_method

    for option in ("top16", "label", "random"):
        made = composed.group("selection", option)
        parameters = list(inspect.signature(get_method(made._target_)).parameters)
        own = {f.name for f in fields(made) if not f.name.startswith("_")} - {"name"}
        assert parameters[:4] == ["harvest", "decomposition", "target_language", "seed"]
        assert set(parameters[4:]) == own


def test_selectors_work_on_a_real_harvest(harvested, decomposition):
    chosen = select_top(harvested, decomposition, "de", 0, count=3, contrast="en")
    table = harvested.subcomponents
    expected = (table["mean_ci_de"] - table["mean_ci_en"]).sort_values(ascending=False)
    assert [str(key) for key in chosen.keys] == table["key"][expected.index[:3]].tolist()
