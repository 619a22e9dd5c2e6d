"""`model=hf name=... decomposition=train`: from a plain model's folder to an edited model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pd_finetune import decompose, export, on_demand
from pd_finetune.decomposition.folder import RECORD
from pd_finetune.decomposition.trainer import Trainer
from pd_finetune.errors import UserError
from pd_finetune.export import ExportConfig
from pd_finetune.loading.decomposition import load_decomposition
from pd_finetune.loading.folders import decomposition_folder
from pd_finetune.loading.target import load_target
from pd_finetune.on_demand import finetuned
from pd_finetune.selection.store import load_harvest
from pd_finetune.targets.keys import SubcomponentKey
from tests import composed, families
from tests.decomposition import parts

PATTERN = {
    "gpt_neox": "gpt_neox.layers.*.attention.dense",
    "llama": "h.*.attn.v_proj",
    "gpt2": "transformer.h.*.attn.c_proj",
}


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parts.text_folder(tmp_path_factory.mktemp("text"))


def words(model: Path, text: Path, runs: Path, family: str, *more: str) -> list[str]:
    return [
        "debug=tiny",
        "model=hf",
        f"model.folder={model}",
        "decomposition=train",
        f"+decomposition.sites={{{PATTERN[family]}: 6}}",
        "decomposition.recipe.steps=4",
        "decomposition.recipe.rows=4",
        "decomposition.recipe.window=12",
        "decomposition.ci_function={width: 16, blocks: 1, heads: 2, mlp_width: 16}",
        "decomposition.quality.rows_per_language=2",
        "decomposition.quality.adversary_steps=2",
        "decomposition.harvest_rows=4",
        "decomposition.precision=float32",
        "languages=local",
        f"languages.source.folder={text}",
        "languages.all=[de,en]",
        "evaluation.rollouts={de: Der, en: The}",
        "token_budget.min_paragraph_tokens=4",
        "token_budget.sequence_tokens=32",
        "logger=none",
        "progress=false",
        f"paths.runs={runs}",
        *more,
    ]


@pytest.mark.parametrize("family", families.MAKE)
def test_a_run_trains_what_it_needs(family: str, text: Path, tmp_path: Path) -> None:
    model = families.folder(family, tmp_path / "model")
    first, more = PATTERN[family].replace("*", "0"), PATTERN[family].replace("*", "1")
    by_key = ["selection=keys", f"selection.keys=['{more}:2']", "method.start=-1.0"]
    config = composed.stage("run", *words(model, text, tmp_path / "runs", family, *by_key))
    record, folder, fresh = finetuned(config)
    assert fresh and record.finished and list(record.masks) == [f"{more}:2"]
    place = record.config["decomposition"]["folder"]
    assert place.startswith("trained:")
    target = load_target(str(model))
    decomposition = load_decomposition(place, target)
    assert sorted(decomposition.sites) == [first, more]
    harvest = load_harvest(decomposition_folder(place) / "harvest", target, decomposition)
    assert len(harvest.subcomponents) == 12
    # what is exported is the formula, in the layout of the model's own weight
    export.run(ExportConfig(run=str(folder), out=str(tmp_path / "edited"), device="cpu"))
    edited = AutoModelForCausalLM.from_pretrained(tmp_path / "edited")
    site = decomposition.sites[more]
    V, U = decomposition.vectors(SubcomponentKey.parse(f"{more}:2"))
    change = (record.masks[f"{more}:2"] - 1) * torch.outer(U.double(), V.double())
    for name, weight in edited.named_parameters():
        before = target.model.get_parameter(name).double()
        if name == f"{site.module}.weight":
            assert change.abs().max() > 1e-3
            before = before + (change.T if family == "gpt2" else change)
        torch.testing.assert_close(weight.double(), before, atol=1e-5, rtol=1e-5)


def test_trained_once_and_gone_on_with_after_a_kill(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PD_FINETUNE_CACHE", str(tmp_path / "cache"))
    model = families.folder("gpt2", tmp_path / "model")
    steps: list[int] = []
    step = Trainer.train_step

    def killed_at_three(trainer: Any) -> Any:
        if trainer.step == 3 and len(steps) == 3:
            raise KeyboardInterrupt
        steps.append(trainer.step)
        return step(trainer)

    monkeypatch.setattr(Trainer, "train_step", killed_at_three)
    more = ["decomposition.checkpoint_steps=2", "selection=random", "objective.steps=1"]
    given = words(model, text, tmp_path / "runs", "gpt2", *more)
    with pytest.raises(KeyboardInterrupt):
        finetuned(composed.stage("run", *given))
    first, _, _ = finetuned(composed.stage("run", *given))
    assert steps == [0, 1, 2, 2, 3]  # from the checkpoint of step 2
    again, _, fresh = finetuned(composed.stage("run", *given))
    assert not fresh and len(steps) == 5
    assert again.config["decomposition"] == first.config["decomposition"]
    # another recipe is another decomposition, another checkpoint interval is not
    monkeypatch.setattr(decompose, "run", lambda config: pytest.fail("trained again"))
    finetuned(composed.stage("run", *given, "decomposition.checkpoint_steps=4", "seed=1"))
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        finetuned(composed.stage("run", *given, "decomposition.recipe.steps=5"))


def test_half_a_harvest_is_made_anew(text: Path, tmp_path: Path) -> None:
    model = families.folder("llama", tmp_path / "model")
    more = ["selection=random", "objective.steps=1"]
    given = words(model, text, tmp_path / "runs", "llama", *more)
    record, folder, _ = finetuned(composed.stage("run", *given))
    place = decomposition_folder(record.config["decomposition"]["folder"])
    made = json.loads((place / "harvest" / "harvest.json").read_text())
    (place / "harvest" / "harvest.json").unlink()
    shutil.rmtree(folder)
    finetuned(composed.stage("run", *given))
    again = json.loads((place / "harvest" / "harvest.json").read_text())
    assert again["files"] == made["files"]
    assert (place / RECORD).is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["+decomposition.sites={zz.*: 3}"],
            "'zz.\\*' matches no matrix; there are: transf",
        ),
        (["decomposition.recipe.window=65"], "window=65: the target's context is 64"),
        (["+decomposition.mixture={de: 1, fr: 1}"], "mixture.fr: possible languages are de, en"),
    ],
)
def test_mistakes(more: list[str], message: str, text: Path, tmp_path: Path) -> None:
    model = families.folder("gpt2", tmp_path / "model")
    given = [w for w in words(model, text, tmp_path, "gpt2") if "decomposition.sites" not in w]
    with pytest.raises(UserError, match=message):
        finetuned(composed.stage("run", *given, *more))


def test_every_matrix_where_no_pattern_is_given(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = families.folder("gpt2", tmp_path / "model")
    given = [w for w in words(model, text, tmp_path, "gpt2") if "decomposition.sites" not in w]
    asked: list[Any] = []
    monkeypatch.setattr(on_demand, "alone", pytest.fail)  # not reached: the check below comes first

    def find(model: Any, patterns: dict[str, int]) -> None:
        asked.append(patterns)
        raise UserError("seen")

    monkeypatch.setattr(on_demand, "find_sites", find)
    with pytest.raises(UserError, match="seen"):
        finetuned(composed.stage("run", *given))
    names = [
        f"transformer.h.{i}.{name}"
        for i in range(2)
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    assert asked == [dict.fromkeys(names, 16)]


def test_other_stages_say_what_to_give() -> None:
    config = composed.stage("harvest", "decomposition=train")
    with pytest.raises(UserError, match="decomposition.folder=trained:<key>"):
        decomposition_folder(config.decomposition.folder)
