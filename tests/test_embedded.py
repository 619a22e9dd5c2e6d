"""What ships: target, decomposition, harvest and text belong together and are what they say."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch

from pd_finetune.decomposition.evidence.battery import battery, summary
from pd_finetune.decomposition.folder import EMBEDDED_DECOMPOSITION, SHIPPED
from pd_finetune.decomposition.sites import weight_at
from pd_finetune.evaluation.evaluate import base_values
from pd_finetune.evaluation.held_out import held_out as evaluated_text
from pd_finetune.loading.decomposition import load_decomposition
from pd_finetune.loading.folders import EMBEDDED_TARGET
from pd_finetune.loading.target import load_target
from pd_finetune.selection.harvest import load_harvest
from pd_finetune.selection.rank import select_label, select_top
from pd_finetune.targets.predictions import sequence_cross_entropies
from pd_finetune.text.sources import EMBEDDED_TEXT, ParquetFolder
from pd_finetune.text.tokens import token_stream, windows
from tests import composed

ROOT = Path(__file__).parent.parent
LANGUAGES = ["de", "en", "fr", "es", "it", "code"]


@pytest.fixture(scope="module")
def target():
    return load_target("embedded")


@pytest.fixture(scope="module")
def decomposition(target):
    return load_decomposition("embedded", target)


@pytest.fixture(scope="module")
def harvest(target, decomposition):
    return load_harvest(EMBEDDED_DECOMPOSITION / "harvest", target, decomposition)


def held_out(target, split: str, rows: int, length: int) -> dict[str, torch.Tensor]:
    source = ParquetFolder()
    return {
        name: torch.from_numpy(
            windows(token_stream(target.tokenizer, source, name, split), rows, length)
        )
        for name in LANGUAGES
    }


def test_the_target_beats_a_unigram_model_in_every_language(target):
    record = json.loads((EMBEDDED_TARGET / "training_record.json").read_text())
    for name, ids in held_out(target, "validation", 16, 128).items():
        measured = fmean(sequence_cross_entropies(target, ids, 16))
        row = record["held_out"][name]
        assert row["validation_ce_nats"] < row["test_unigram_nats"] - 2
        # the shipped text is a part of the corpus that the record was measured on
        assert abs(measured - row["validation_ce_nats"]) < 0.6


def test_the_decomposition_keeps_what_its_record_claims(target, decomposition):
    claimed = decomposition.record["evidence"]
    ids = torch.cat(list(held_out(target, "validation", 6, decomposition.window).values()))
    found = summary(battery(target, decomposition, ids, rungs=[0], step=0.1), "kl_nats")
    for name in ("unmasked", "ci_masked", "rounded", "stochastic"):
        assert found["kl_nats"][name] == pytest.approx(claimed["kl_nats"][name], rel=0.4, abs=0.01)
    assert found["ci_l0"] == pytest.approx(claimed["ci_l0"], rel=0.3)
    assert found["kl_nats"]["unmasked"] < 0.05
    assert found["kl_nats"]["ci_masked"] < found["kl_nats"]["random"] / 2
    assert found["ci_l0"] < 0.1 * found["subcomponents"]


def test_the_labelled_subcomponent_is_german_on_text_it_was_not_chosen_on(
    target, decomposition, harvest
):
    chosen = select_label(harvest, decomposition, "de", 0, choose="effect")
    (key,) = chosen.keys
    row = harvest.subcomponents.set_index("key").loc[str(key)]
    assert "German text" in row["label"]
    fresh = {}
    for name, ids in held_out(target, "validation", 12, decomposition.window).items():
        ci = decomposition.causal_importances(target, ids, [key.site])[key.site]
        fresh[name] = float(ci[..., key.index].mean())
    assert fresh["de"] > 0.3
    assert all(fresh["de"] > 8 * value for name, value in fresh.items() if name != "de")


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "embedded"])
def test_other_seeds_ship_what_edits_are_made_of(target, decomposition, name):
    other = load_decomposition(name, target)
    assert other.stored_ci_function is None
    assert name.endswith(f"seed{other.record['config']['seed']}")
    for setting in ("recipe", "sites", "mixture"):
        assert other.record["config"][setting] == decomposition.record["config"][setting]
    for site, where in other.sites.items():
        weight = weight_at(target.model, where)
        assert other.components.delta(target.model, site).norm() < 0.05 * weight.norm(), site
    harvest = load_harvest(SHIPPED[name] / "harvest", target, other)
    (key,) = select_label(harvest, other, "de", 0, choose="effect").keys
    row = harvest.subcomponents.set_index("key").loc[str(key)]
    assert "German text" in row["label"]


def test_top16_holds_distinct_ones_in_order(decomposition, harvest):
    top = select_top(harvest, decomposition, "de", 0, count=16, contrast="en")
    assert len(set(top.keys)) == 16
    table = harvest.subcomponents.set_index("key")
    gaps = [table.loc[str(k), "mean_ci_de"] - table.loc[str(k), "mean_ci_en"] for k in top.keys]
    assert np.all(np.diff(gaps) <= 0)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_text_is_what_its_manifest_says(language):
    manifest = json.loads((EMBEDDED_TEXT / "manifest.json").read_text())
    path = EMBEDDED_TEXT / f"{language}.parquet"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest in json.dumps(manifest)
    source = ParquetFolder()
    train = {p for d in source.documents(language, "train") for p in d.split("\n")}
    for split in ("validation", "test"):
        documents = source.documents(language, split)
        assert documents
        if language != "code":  # lines of code recur
            shared = {p for d in documents for p in d.split("\n") if len(p) > 60} & train
            assert not shared


def test_licences_are_beside_the_text():
    notice = (EMBEDDED_TEXT / "NOTICE.md").read_text()
    for licence in Path(EMBEDDED_TEXT / "LICENSES").iterdir():
        assert licence.stem in notice


def test_the_readme_says_what_the_files_say() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "readme_tables.py"), "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_shipped_base_values_are_those_of_the_target(target, tmp_path, monkeypatch):
    monkeypatch.setenv("PD_FINETUNE_CACHE", str(tmp_path))
    config = composed.stage("run")
    texts = evaluated_text(target, ParquetFolder(), config.languages.all, config.evaluation)
    served = base_values(target, texts, config.evaluation)
    assert len(served) == 11
    assert not (tmp_path / "evaluation").exists()  # nothing was computed
    for name in ("de", "code", "fr_ood"):
        anew = sequence_cross_entropies(target, texts[name].ids)
        assert served[name] == pytest.approx(anew, abs=1e-4)
