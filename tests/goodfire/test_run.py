"""`model=goodfire_4l decomposition=vpd_s55ea3f9b`: a whole run on a random checkpoint's files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pd_finetune import export, harvest
from pd_finetune.errors import UserError
from pd_finetune.export import ExportConfig
from pd_finetune.finetuning import identity
from pd_finetune.finetuning.config import RunConfig
from pd_finetune.finetuning.experiment import finetune_run
from pd_finetune.goodfire.config import GoodfireDecompositionConfig
from pd_finetune.loading.target import load_target
from tests.composed import stage
from tests.goodfire.writer import DECOMPOSITION, TARGET, Checkpoint, write_interp_db

LABELS = {"h.1.attn.v_proj:3": "German text and names", "h.0.mlp.c_fc:0": "foreign languages"}
WORDS = ["model=goodfire_4l", "decomposition=vpd_s55ea3f9b", "method=mask", "budget=4"]


def composed(*overrides: str) -> RunConfig:
    return stage("run", *WORDS, *overrides)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("files")
    made = Checkpoint(context=40)
    made.write_target(root / TARGET)
    made.write_decomposition(root / DECOMPOSITION)
    write_interp_db(root / "a-20260101_000000" / "interp.db", LABELS)
    (root / "text").mkdir()
    rng = np.random.default_rng(0)
    for language, words in (("de", range(1, 25)), ("en", range(20, 53))):
        texts = [" ".join(f"w{i}" for i in rng.choice(words, 60)) for _ in range(12)]
        splits = ["train", "validation", "test"] * 4
        table = pa.table({"text": texts, "split": splits})
        pq.write_table(table, root / "text" / f"{language}.parquet")
    return root


def small(files: Path, runs: Path, *more: str) -> list[str]:
    return [
        "debug=tiny",
        f"model.folder={files / TARGET}",
        f"decomposition.folder={files / DECOMPOSITION}",
        f"decomposition.labels={files}",
        "languages=local",
        f"languages.source.folder={files / 'text'}",
        "languages.all=[de,en]",
        "token_budget.sequence_tokens=32",
        "evaluation.rollouts={de: w2 w3, en: w30}",
        "logger=none",
        "progress=false",
        f"paths.runs={runs}",
        *more,
    ]


def test_a_run_by_label_and_its_export(files, tmp_path):
    record, folder, _ = finetune_run(composed(*small(files, tmp_path / "runs", "selection=label")))
    assert record.finished and record.selection == ["h.1.attn.v_proj:3"]
    assert "German text and names" in record.selection_reason
    assert record.chance_nats == pytest.approx(np.log(53))
    out = tmp_path / "edited"
    export.run(ExportConfig(run=str(folder), out=str(out), device="cpu"))
    edited = load_target(str(out))
    before = load_target(str(files / TARGET))
    changed = [
        name
        for (name, a), b in zip(
            edited.model.named_parameters(), before.model.parameters(), strict=True
        )
        if not torch.equal(a, b)
    ]
    assert changed == ["model.layers.1.self_attn.v_proj.weight"]
    assert edited.tokenizer.to_str() == before.tokenizer.to_str()


def test_other_labels_are_another_run(files, tmp_path):
    labels, more = tmp_path / "labels.json", ["selection=label", "objective.steps=1"]
    chosen = []
    for key in ("1.attn.v:3", "1.attn.v:4"):
        labels.write_text(json.dumps({key: "German text"}))
        identity.labels_of.cache_clear()
        words = small(files, tmp_path / "runs", *more, f"decomposition.labels={labels}")
        record, _, fresh = finetune_run(composed(*words))
        assert fresh
        chosen += record.selection
    assert chosen == ["h.1.attn.v_proj:3", "h.1.attn.v_proj:4"]
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_run_by_key_needs_no_labels(files, tmp_path):
    more = ["selection=keys", "selection.keys=[1.attn.v:3]", "decomposition.labels=nowhere"]
    record, _, _ = finetune_run(composed(*small(files, tmp_path, *more)))
    assert record.finished and list(record.masks) == ["h.1.attn.v_proj:3"]


@pytest.mark.parametrize("method", ["mask", "lora_r1"])
def test_a_run_in_16_bits(method, files, tmp_path):
    more = ["selection=keys", "selection.keys=[1.attn.v:3]", f"method={method}"]
    exact, rounded = (
        finetune_run(composed(*small(files, tmp_path, *more, f"model.dtype={dtype}")))[0]
        for dtype in ("float32", "bfloat16")
    )
    assert rounded.finished and rounded.hashes == exact.hashes
    assert rounded.config_hash != exact.config_hash
    for name, ce in exact.base.ce_nats.items():
        assert ce != rounded.base.ce_nats[name] == pytest.approx(ce, rel=0.1)


def test_a_harvest_in_16_bits(files, tmp_path):
    words = [w for w in small(files, tmp_path) if w.startswith(("model", "decomp", "lang"))]
    words = [*WORDS[:2], *words, "rows_per_language=3", "device=cpu"]
    means = {}
    for kind, more in {
        "exact": [],
        "rounded target": ["model.dtype=bfloat16"],
        "rounded products": ["precision=bfloat16"],
    }.items():
        out = harvest.run(stage("harvest", *words, *more, f"out={tmp_path / kind}"))
        means[kind] = pd.read_parquet(out / "subcomponents.parquet")["mean_ci_de"]
    for kind in ("rounded target", "rounded products"):
        difference = (means[kind] - means["exact"]).abs()
        assert 0 < difference.max() < 0.1 < means["exact"].max(), kind


def test_label_without_labels_asks_for_a_harvest(files, tmp_path):
    more = ["selection=label", "decomposition.labels=null"]
    with pytest.raises(UserError, match="no harvest in"):
        finetune_run(composed(*small(files, tmp_path, *more)))
    assert not list(tmp_path.iterdir())


def test_several_labels_are_refused(files, tmp_path):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"1.attn.v:3": "German text", "0.mlp.up:1": "text in German"}))
    more = ["selection=label", f"decomposition.labels={labels}"]
    with pytest.raises(UserError, match="h.0.mlp.c_fc:1.*h.1.attn.v_proj:3"):
        finetune_run(composed(*small(files, tmp_path / "runs", *more)))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["harvest", "quality"])
def test_other_stages_take_the_same_words(name):
    made = stage(name, *WORDS[:2])
    assert made.decomposition.folder == "goodfire/spd/runs/s-55ea3f9b"


def test_what_the_options_say():
    made = composed()
    assert made.model.folder == "goodfire/spd/runs/t-9d2b8f02"
    assert isinstance(made.decomposition, GoodfireDecompositionConfig)
    assert made.decomposition.folder == "goodfire/spd/runs/s-55ea3f9b"
    assert made.decomposition.labels.startswith("https://static.goodfire.ai/")


def test_without_a_network_one_line_and_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "pd_finetune.run", *WORDS]
    command += ["languages=wikipedia", "selection=label", f"paths.runs={tmp_path / 'runs'}"]
    environment = {**os.environ, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: cannot download W&B run goodfire/spd/runs/t-9d2b8f02")
    assert "set model.folder to a local folder" in line
    assert not (tmp_path / "runs").exists()
