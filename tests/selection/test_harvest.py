"""The harvest against a slow reference: loops over positions and subcomponents in float64."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import recorded_inputs
from pd_finetune.errors import UserError
from pd_finetune.selection.harvest import harvest, load_harvest, save_harvest, site_groups
from pd_finetune.text.tokens import token_stream, windows

from .conftest import BATCH, ROWS, WINDOW, WORDS, WordSource


@pytest.fixture(scope="module")
def reference(target, decomposition, source):
    """Every position: language, row, ids, CI and activation by key, next-token probabilities."""
    model = copy.deepcopy(target.model).double()
    ci_function = copy.deepcopy(decomposition.ci_function).double()
    positions = []
    factors = {}
    for key in decomposition.all_keys():
        V, U = decomposition.vectors(key)
        factors[key] = V.double(), float(U.double().norm())
    for language in WORDS:
        stream = token_stream(target.tokenizer, source, language, "train")
        for row, ids in enumerate(windows(stream, ROWS, WINDOW)):
            with torch.no_grad(), recorded_inputs(model, decomposition.sites) as inputs:
                logits = model(input_ids=torch.tensor(ids)[None]).logits[0]
            with torch.no_grad():
                ci = ci_function.causal_importances(inputs)
            for position in range(WINDOW):
                point = {"language": language, "row": row, "position": position, "ids": ids}
                point["ci"], point["activation"] = {}, {}
                for key, (V, norm) in factors.items():
                    point["ci"][str(key)] = float(ci[key.site][0, position, key.index])
                    read = float(inputs[key.site][0, position] @ V)
                    point["activation"][str(key)] = read * norm
                point["probabilities"] = torch.softmax(logits[position], -1).numpy()
                positions.append(point)
    return positions


def test_means_and_frequencies_match_the_reference(harvested, reference, decomposition):
    assert harvested.subcomponents["key"].tolist() == [str(key) for key in decomposition.all_keys()]
    for _, row in harvested.subcomponents.iterrows():
        for language in WORDS:
            values = [p["ci"][row["key"]] for p in reference if p["language"] == language]
            assert len(values) == harvested.tokens_spent(language) == ROWS * WINDOW
            assert row[f"mean_ci_{language}"] == pytest.approx(np.mean(values), abs=1e-5)
            firing = sum(value > 0 for value in values) / len(values)
            assert row[f"firing_{language}"] == pytest.approx(firing, abs=1e-12)
            strong = sum(value > 0.1 for value in values) / len(values)
            assert row[f"strong_firing_{language}"] == pytest.approx(strong, abs=1e-12)
        activations = [p["activation"][row["key"]] for p in reference]
        assert row["mean_activation"] == pytest.approx(np.mean(activations), rel=1e-4, abs=1e-4)
        absolute = np.mean(np.abs(activations))
        assert row["mean_abs_activation"] == pytest.approx(absolute, rel=1e-4)


def test_the_fixture_has_dead_sparse_and_dense_subcomponents(harvested):
    firing = harvested.subcomponents[[f"firing_{name}" for name in WORDS]].mean(axis=1)
    assert (firing == 0).any() and firing.between(0.01, 0.3).any() and (firing > 0.6).any()


@pytest.mark.parametrize("side", ["in", "out"])
def test_token_pmi_matches_the_reference(harvested, reference, side):
    vocab = len(reference[0]["probabilities"])
    totals = np.zeros(vocab)
    masses = []
    for point in reference:
        one_hot = np.zeros(vocab)
        one_hot[point["ids"][point["position"]]] = 1.0
        masses.append(one_hot if side == "in" else point["probabilities"])
        totals += masses[-1]
    for key in harvested.subcomponents["key"]:
        counts, fired = np.zeros(vocab), 0
        for point, mass in zip(reference, masses, strict=True):
            if point["ci"][key] > 0:
                counts += mass
                fired += 1
        expected, weight = {}, {}
        for x in range(vocab):
            if counts[x] > 0:
                expected[x] = math.log(counts[x] * len(reference) / (fired * totals[x]))
                weight[x] = counts[x] / fired * expected[x]
        rows = harvested.tokens.query("key == @key and side == @side")
        for _, row in rows.iterrows():
            assert row["pmi"] == pytest.approx(expected[row["token_id"]], abs=1e-4)
            assert row["count"] == pytest.approx(counts[row["token_id"]], rel=1e-4)
        by_pmi = rows[rows["pmi_rank"] > 0].sort_values("pmi_rank")
        assert by_pmi["pmi_rank"].tolist() == list(range(1, min(12, len(expected)) + 1))
        highest = sorted(expected.values(), reverse=True)[:12]
        assert by_pmi["pmi"].tolist() == pytest.approx(highest, abs=1e-4)
        by_weight = rows[rows["weight_rank"] > 0].sort_values("weight_rank")
        heaviest = [w for w in sorted(weight.values(), reverse=True)[:12] if w > 1e-6]
        found = [weight[i] for i in by_weight["token_id"]]
        assert found[: len(heaviest)] == pytest.approx(heaviest, abs=1e-5)


def test_examples_are_the_highest_positions_of_distinct_rows(harvested, reference, target):
    for key in harvested.subcomponents["key"]:
        best: dict[tuple[str, int], float] = {}
        for point in reference:
            place = (point["language"], point["row"])
            best[place] = max(best.get(place, 0.0), point["ci"][key])
        expected = sorted((value for value in best.values() if value > 0), reverse=True)[:5]
        rows = harvested.examples[harvested.examples["key"] == key].sort_values("rank")
        assert rows["ci"].tolist() == pytest.approx(expected, abs=1e-4)
        assert len(rows[["language", "row"]].drop_duplicates()) == len(rows)
        for _, row in rows.iterrows():
            (point,) = (
                p
                for p in reference
                if (p["language"], p["row"], p["position"])
                == (row["language"], row["row"], row["position"])
            )
            assert point["ci"][key] == pytest.approx(row["ci"], abs=1e-4)
            ids, at = point["ids"].tolist(), row["position"]
            around = (ids[max(0, at - 8) : at], [ids[at]], ids[at + 1 : at + 9])
            assert (row["before"], row["at"], row["after"]) == tuple(
                target.tokenizer.decode(part, skip_special_tokens=False) for part in around
            )


def test_saturated_examples_go_round_the_languages(harvested):
    saturated = harvested.examples.groupby("key").filter(
        lambda rows: (rows["ci"] == 1.0).sum() == 5
    )
    firing = harvested.subcomponents.set_index("key")
    everywhere = [
        key
        for key in saturated["key"].unique()
        if all(firing.loc[key, f"mean_ci_{name}"] > 0.6 for name in WORDS)
    ]
    assert everywhere
    for key in everywhere:
        assert set(saturated[saturated["key"] == key]["language"]) == set(WORDS)


def test_groups_change_nothing_but_the_number_of_passes(target, decomposition, source, harvested):
    one_site = 9 * 300 * 8
    again = harvest(
        target,
        decomposition,
        source,
        list(WORDS),
        ROWS,
        batch=ROWS,
        max_count_bytes=one_site,
        progress=False,
    )
    assert again.config["passes"] > 1 == harvested.config["passes"]
    for name in ("subcomponents", "tokens", "examples"):
        first, second = getattr(harvested, name), getattr(again, name)
        order = ["key"] if name == "subcomponents" else ["key", *first.columns[1:5]]
        if name == "tokens":
            order = ["key", "side", "token_id"]
        first, second = (t.sort_values(order, ignore_index=True) for t in (first, second))
        assert first["key"].tolist() == second["key"].tolist()
        numbers = first.select_dtypes("float").columns
        assert np.allclose(first[numbers], second[numbers], atol=1e-4, equal_nan=True)


@pytest.mark.parametrize(("max_bytes", "runs"), [(16_128, 9), (16_127, 27)])
def test_the_trunk_runs_once_where_its_outputs_fit(
    target, decomposition, source, monkeypatch, max_bytes, runs
):
    ran, trunk, width = [], CIFunction.trunk, decomposition.ci_function.output_head.in_features

    def counted(self, inputs):
        ran.append(len(inputs))
        return trunk(self, inputs)

    monkeypatch.setattr(CIFunction, "trunk", counted)
    arguments = (target, decomposition, source, list(WORDS), ROWS)
    only = ["h.0.attn.v_proj", "h.1.attn.v_proj", "h.0.attn.o_proj"]
    assert 4 * len(WORDS) * ROWS * WINDOW * width == 16_128
    settings = {"batch": BATCH, "only": only, "max_count_bytes": max_bytes}
    made = harvest(*arguments, **settings, progress=False)
    assert made.config["passes"] == 3
    assert len(ran) == runs


def test_only_some_sites_and_no_token_statistics(target, decomposition, source, harvested):
    small = harvest(
        target,
        decomposition,
        source,
        list(WORDS),
        ROWS,
        only=["model.layers.1.self_attn.v_proj"],
        token_statistics=False,
        effects=False,
        progress=False,
    )
    assert small.subcomponents["effect_nats"].isna().all()
    assert small.subcomponents["site"].unique().tolist() == ["h.1.attn.v_proj"]
    assert small.tokens.empty and list(small.tokens) == list(harvested.tokens)
    whole = harvested.subcomponents.set_index("key").loc[small.subcomponents["key"]]
    assert np.allclose(small.subcomponents["mean_ci_de"], whole["mean_ci_de"], atol=1e-6)


def test_save_and_load_give_the_same_tables(tmp_path, target, decomposition, harvested):
    import pandas as pd

    save_harvest(harvested, tmp_path / "harvest")
    loaded = load_harvest(tmp_path / "harvest", target, decomposition)
    for name in ("subcomponents", "tokens", "examples"):
        pd.testing.assert_frame_equal(
            getattr(loaded, name), getattr(harvested, name), check_dtype=False
        )
    assert loaded.config == harvested.config
    names = {path.name for path in (tmp_path / "harvest").iterdir()}
    assert names == {
        "harvest.json",
        "subcomponents.parquet",
        "tokens.parquet",
        "examples.parquet",
    }
    key = next(k for k in decomposition.all_keys() if str(k) == loaded.examples["key"].iloc[0])
    assert {len(rows) > 0 for rows in loaded.evidence(key).values()} == {True}


@pytest.mark.parametrize("name", ["target", "tokenizer", "decomposition"])
def test_a_harvest_of_something_else_is_refused(tmp_path, target, decomposition, harvested, name):
    other = copy.deepcopy(harvested)
    other.config["hashes"][name] = "0" * 64
    save_harvest(other, tmp_path)
    with pytest.raises(UserError, match=f"is of another {name} \\(000000000000"):
        load_harvest(tmp_path, target, decomposition)


def test_missing_broken_and_mixed_harvests_are_refused(tmp_path, target, decomposition, harvested):
    def load():
        return load_harvest(tmp_path, target, decomposition)

    with pytest.raises(UserError, match="no harvest in"):
        load()
    save_harvest(harvested, tmp_path)
    (tmp_path / "tokens.parquet").write_bytes(b"other")
    with pytest.raises(UserError, match=r"tokens.parquet' is missing or does not belong"):
        load()
    (tmp_path / "harvest.json").write_text('{"format": 0}')
    with pytest.raises(UserError, match="not of harvest format 2"):
        load()
    (tmp_path / "harvest.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        load()
    unhashed = copy.deepcopy(harvested)
    unhashed.config["hashes"]["decomposition"] = ""
    with pytest.raises(UserError, match="has no hash"):
        save_harvest(unhashed, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"languages": ["de"]}, r"harvest languages \[de\]: give two or more"),
        ({"languages": ["de", "de"]}, r"\[de, de\]: give two or more different"),
        ({"rows_per_language": 0}, "rows_per_language=0"),
        ({"only": ["h.9.attn.v_proj"]}, "no site 'h.9.attn.v_proj' in this decomposition"),
        ({"max_count_bytes": 1000}, "above max_count_bytes=1,000.*token_statistics=false"),
        ({"source": WordSource(words=1)}, "the train text of 'de' has .* less than one window"),
    ],
)
def test_mistakes_are_answered(target, decomposition, source, arguments, message):
    given = {"source": source, "languages": ["de", "en"], "rows_per_language": 2, **arguments}
    with pytest.raises(UserError, match=message):
        harvest(target, decomposition, **given, progress=False)


def test_causal_importances_that_are_not_finite_are_refused(target, decomposition, source):
    broken = copy.deepcopy(decomposition)
    with torch.no_grad():
        broken.ci_function.output_head.bias[3] = float("nan")
    with pytest.raises(UserError, match="not all finite"):
        harvest(target, broken, source, ["de", "en"], 2, batch=BATCH, progress=False)


def test_goodfire_sized_counts_take_eight_passes():
    from pd_finetune.decomposition.sites import Site

    sizes = {"q": 512, "k": 512, "v": 1024, "o": 1024, "up": 3072, "down": 3584}
    sites = [Site(f"h.{i}.{n}", "", 1, 1, C) for i in range(4) for n, C in sizes.items()]
    groups = site_groups(sites, 50_277, 2 * 2**30, token_statistics=True)
    assert [site for group in groups for site in group] == sites
    assert all(sum(s.C for s in g) * 50_277 * 8 <= 2 * 2**30 for g in groups)
    assert len(groups) <= 12
    assert site_groups(sites, 50_277, 1, token_statistics=False) == [sites]
