"""`harvest.db`: every schema read, and our own harvest equal to what Goodfire's code counted."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch

from pd_finetune.errors import UserError
from pd_finetune.goodfire.harvest_db import read_harvest
from pd_finetune.selection.statistics import TokenStatistics, pmi
from pd_finetune.selection.tables import Group
from pd_finetune.targets.keys import SubcomponentKey

KEY = SubcomponentKey("h.1.mlp.c_fc", 7)
PMI = json.dumps({"top": [[5, 1.5], [2, 0.5]], "bottom": [[3, -2.0]]})


def write_db(path: Path, as_bytes: bool = True, count: bool = True, oldest: bool = False) -> Path:
    """One row, in one of the schemas that there have been."""
    means = {"causal_importance": 0.25, "component_activation": -0.5}
    row: dict[str, object] = {
        "component_key": str(KEY),
        "layer": KEY.site,
        "component_idx": KEY.index,
        "firing_density": 0.125,
        **({"n_activation_examples": 1} if count else {}),
        **({"mean_ci": 0.25} if oldest else {"mean_activations": json.dumps(means)}),
        "activation_examples": "[]",
        "input_token_pmi": PMI,
        "output_token_pmi": PMI,
    }
    if as_bytes:
        row = {k: v.encode() if isinstance(v, str) and v[0] in "[{" else v for k, v in row.items()}
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE components ({', '.join(row)})")
        marks = ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO components VALUES ({marks})", list(row.values()))
    connection.close()
    return path


@pytest.mark.parametrize("as_bytes", [True, False])
@pytest.mark.parametrize("count", [True, False])
@pytest.mark.parametrize("oldest", [True, False])
def test_every_schema(tmp_path, as_bytes, count, oldest):
    path = write_db(tmp_path / "harvest.db", as_bytes, count, oldest)
    found = read_harvest(path)[KEY]
    assert (found.firing_density, found.mean_ci) == (0.125, 0.25)
    assert read_harvest(tmp_path) == {KEY: found}


def test_what_is_no_harvest(tmp_path):
    with pytest.raises(UserError, match="no harvest.db at"):
        read_harvest(tmp_path)
    path = tmp_path / "harvest.db"
    path.write_bytes(b"no database at all, whatever its name says")
    with pytest.raises(UserError, match="cannot read database"):
        read_harvest(path)
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE components (component_key, firing_density)")
    connection.close()
    with pytest.raises(UserError, match="no table components with"):
        read_harvest(path)


# ------------------------------------------------------------------ parity


@pytest.fixture(scope="module")
def ours(published):
    """Our statistics over the batches that their harvest ran over."""
    from tqdm import tqdm

    from pd_finetune.selection.harvest import _pass
    from pd_finetune.selection.statistics import ActivationStatistics, CIStatistics, TopExamples

    with np.load(published.folder / "harvest" / "harvest_tokens.npz") as file:
        rows = file["tokens"].reshape(-1, file["tokens"].shape[-1]).astype(np.int64)
    sites = published.sites
    C, device = sum(published.decomposition.sites[n].C for n in sites), torch.device("cpu")
    group = Group(
        sites,
        CIStatistics(1, C, 0.0, device),
        ActivationStatistics(C, device),
        TokenStatistics(C, 97, device),
        TopExamples(1, C, 2, device),
    )
    with tqdm(disable=True) as bar:
        _pass(published.target, published.decomposition, {"all": rows}, group, 2, "float32", bar)
    keys = [str(key) for key in published.decomposition.all_keys()]
    return group, rows, {key: i for i, key in enumerate(keys)}


def stored(published, column: str) -> dict[SubcomponentKey, object]:
    """What their file holds of each subcomponent beside what is read of it."""
    (path,) = (published.folder / "harvest" / "s-f1xa0000").glob("h-*/harvest.db")
    with sqlite3.connect(f"file:{path}?immutable=1", uri=True) as connection:
        rows = connection.execute(f"SELECT component_key, {column} FROM components").fetchall()
    return {SubcomponentKey.parse(key): json.loads(value) for key, value in rows}


def test_our_harvest_equals_theirs(published, ours):
    group, rows, places = ours
    theirs = read_harvest(published.folder / "harvest" / "s-f1xa0000")
    means = stored(published, "mean_activations")
    pmis = [stored(published, f"{side}_token_pmi") for side in ("input", "output")]
    fired = {key for key, i in places.items() if group.ci.firing[0, i] > 0}
    assert {str(key) for key in theirs} == fired
    counts = group.tokens
    inputs = pmi(counts.inputs, counts.firing, counts.input_totals, counts.tokens)
    outputs = pmi(counts.outputs, counts.firing, counts.output_totals, counts.tokens)
    for key, found in theirs.items():
        i = places[str(key)]
        assert group.ci.firing[0, i].item() / rows.size == found.firing_density
        assert group.ci.ci[0, i].item() / rows.size == pytest.approx(found.mean_ci, abs=1e-4)
        mean = group.activations.signed[i].item() / rows.size
        assert mean == pytest.approx(means[key]["component_activation"], abs=1e-4)
        for values, pairs in zip((inputs, outputs), (side[key] for side in pmis), strict=True):
            for token, nats in pairs["top"] + pairs["bottom"]:
                assert values[i, token].item() == pytest.approx(nats, abs=1e-4)


def test_our_counts_equal_theirs(published, ours):
    group, _, places = ours
    (folder,) = (published.folder / "harvest" / "s-f1xa0000").glob("h-*")
    stats = torch.load(folder / "token_stats.pt", weights_only=True)
    order = torch.tensor([places[key] for key in stats["component_keys"]])
    tokens = group.tokens
    assert tokens.tokens == stats["n_tokens"]
    assert torch.equal(tokens.firing[order], stats["firing_counts"].long())
    assert torch.equal(tokens.inputs[order].long(), stats["input_counts"].long())
    assert torch.equal(tokens.input_totals, stats["input_totals"].long())
    for name, mine in (
        ("output_counts", tokens.outputs[order]),
        ("output_totals", tokens.output_totals),
    ):
        torch.testing.assert_close(mine.double(), stats[name].double(), atol=1e-4, rtol=1e-5)


def test_their_examples_have_our_importances(published):
    """Each stored window is found in the text, with the CIs and activations that ours gives."""
    with np.load(published.folder / "harvest" / "harvest_tokens.npz") as file:
        batches = torch.from_numpy(file["tokens"].astype(np.int64))
    ids = batches.flatten(0, 1)
    ci = published.decomposition.causal_importances(published.target, ids)
    theirs = stored(published, "activation_examples")
    for key in (SubcomponentKey("h.1.mlp.c_fc", 0), SubcomponentKey("h.0.attn.o_proj", 2)):
        assert theirs[key]
        for example in theirs[key]:
            length = len(example["token_ids"])
            wanted = torch.tensor(example["token_ids"])
            importances = torch.tensor(example["activations"]["causal_importance"])
            where = (ids.unfold(1, length, 1) == wanted).all(-1).nonzero()
            assert len(where) >= 1
            differences = [
                (ci[key.site][row, start : start + length, key.index] - importances).abs().max()
                for row, start in where.tolist()
            ]
            assert min(differences) < 1e-4
