"""Toys train, and the common trainer decomposes them: by config, through the real stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import shared_inputs
from pd_finetune.decomposition.config import CIFunctionConfig, DecomposeConfig
from pd_finetune.decomposition.sites import find_sites
from pd_finetune.decomposition.trainer import Trainer
from pd_finetune.errors import TrainingError, UserError
from pd_finetune.loading.decomposition import load_decomposition
from pd_finetune.toys.model import ToyTarget
from pd_finetune.toys.residual_mlp import ResidualMLP
from pd_finetune.toys.tms import TMS
from pd_finetune.toys.training import HELD_OUT, TARGET, inputs_of, new_toy, train_toy, trained_toy
from tests import composed
from tests.decomposition import parts

EXPERIMENTS = ("toy_tms_5_2", "toy_tms_40_10", "toy_tms_identity", "toy_residual_mlp")
QUICK = ["toy.training.steps=40", "toy.training.samples=256", "device=cpu"]
TINY = [*QUICK, "recipe.steps=4", "recipe.window=8", "quality.adversary_steps=2", "log_steps=2"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield


def config(experiment: str = "toy_tms_5_2", *words: str) -> DecomposeConfig:
    made = composed.stage("decompose", f"experiment={experiment}", "out=unused", *words)
    assert isinstance(made, DecomposeConfig)
    return made


def toy_of(made: DecomposeConfig) -> Any:
    assert made.toy is not None
    return made.toy


def test_inputs_are_sparse_and_a_function_of_seed_stream_and_step() -> None:
    inputs = inputs_of(toy_of(config("toy_residual_mlp")), 3)
    x = inputs.batch(TARGET, 0, 2, 4000)
    assert x.shape == (2, 4000, 40)
    assert (x != 0).float().mean().item() == pytest.approx(0.02, rel=0.05)
    assert -1 <= x.min() < -0.9 and 0.9 < x.max() <= 1
    assert torch.equal(x, inputs.batch(TARGET, 0, 2, 4000))
    for other in (inputs.batch(HELD_OUT, 0, 2, 4000), inputs.batch(TARGET, 1, 2, 4000)):
        assert not torch.equal(x, other)
    assert inputs_of(toy_of(config()), 0).batch(TARGET, 0, 1, 100).min() == 0


def test_training_is_deterministic_and_learns() -> None:
    toy = toy_of(config("toy_tms_5_2", *QUICK, "toy.training.steps=200"))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, mse = train_toy(toy, 0)
    assert torch.equal(before, torch.random.get_rng_state())
    two, same = train_toy(toy, 0)
    other, _ = train_toy(toy, 1)
    assert isinstance(one, TMS) and isinstance(two, TMS) and isinstance(other, TMS)
    assert torch.equal(one.down.weight, two.down.weight) and mse == same
    assert not torch.equal(one.down.weight, other.down.weight)
    assert torch.equal(one.up.weight, one.down.weight.T)  # tied
    x = inputs_of(toy, 0).batch(HELD_OUT, 0, 1, 1000)
    losses = [(m(x) - m.wanted(x)).square().mean() for m in (new_toy(toy, 0), one)]
    assert losses[1] < 0.8 * losses[0]


def test_the_identity_stays_one() -> None:
    toy = toy_of(config("toy_tms_identity", *QUICK))
    made, _ = train_toy(toy, 0)
    assert isinstance(made, TMS) and made.identity is not None
    assert torch.equal(made.identity.weight, torch.eye(2))


def test_residual_mlp_lies_in_the_span_of_its_embedding() -> None:
    toy = toy_of(config("toy_residual_mlp", *QUICK, "toy.model.layers=2"))
    made, _ = train_toy(toy, 0)
    start = new_toy(toy, 0)
    assert isinstance(made, ResidualMLP) and isinstance(start, ResidualMLP)
    for name, weight in made.constrained().items():
        torch.testing.assert_close(weight, made.get_parameter(name), atol=1e-5, rtol=1e-4)
    assert torch.equal(made.embedding, start.embedding)
    torch.testing.assert_close(made.embedding.norm(dim=-1), torch.ones(40))
    x = inputs_of(toy, 0).batch(HELD_OUT, 0, 1, 1000)
    losses = [(m(x) - m.wanted(x)).square().mean() for m in (start, made)]
    assert losses[1] < losses[0]


def test_a_trained_toy_is_read_again_and_another_refused(tmp_path: Path) -> None:
    toy = toy_of(config("toy_tms_5_2", *QUICK))
    first, record = trained_toy(toy, 0, tmp_path, torch.device("cpu"))
    second, again = trained_toy(toy, 0, tmp_path, torch.device("cpu"))
    assert first.hash == second.hash and record == again
    with pytest.raises(UserError, match="other settings or another seed"):
        trained_toy(toy, 1, tmp_path, torch.device("cpu"))


def test_a_toy_that_diverges_is_named() -> None:
    toy = toy_of(config("toy_tms_5_2", *QUICK, "toy.training.lr=1e30"))
    with pytest.raises(TrainingError, match="at step .*lower toy.training.lr"):
        train_toy(toy, 0)


def trainer(folder: Path, *words: str) -> Trainer:
    made = config("toy_tms_5_2", *QUICK, "recipe.window=32", *words)
    toy, recipe = toy_of(made), made.recipe
    inputs = inputs_of(toy, 0)
    return Trainer(
        ToyTarget(train_toy(toy, 0)[0], "tms"),
        made,
        lambda step: inputs.batch(1, step, recipe.rows, recipe.window),
        folder,
    )


@pytest.mark.parametrize("adversary", [True, False], ids=["vpd", "spd"])
def test_training_lowers_reconstruction(adversary: bool, tmp_path: Path) -> None:
    words = [f"recipe.adversary={str(adversary).lower()}", "recipe.steps=60", "recipe.lr=1e-2"]
    made = trainer(tmp_path, *words, "recipe.minimality_coefficient=0")
    made.config.recipe.frequency_coefficient = 0.0
    terms = [made.train_step().terms for _ in range(60)]
    assert (made.maker.sources is not None) == adversary
    kinds = ["stochastic_mse", "adversarial_mse"] if adversary else ["stochastic_mse"]
    assert {name for name in terms[0] if name.endswith("_mse")} == set(kinds)
    for kind in kinds:
        start, end = (sum(t[kind] for t in some) for some in (terms[:8], terms[-8:]))
        assert 0 < end < 0.6 * start


def test_nan_names_step_and_term(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    made.train_step()
    with torch.no_grad():
        made.components.U("up")[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="^[a-z]*_mse is nan at step 1;.*recipe.lr"):
        made.train_step()


def test_mlp_ci_function_sees_each_position_alone() -> None:
    toy = toy_of(config("toy_tms_5_2"))
    target = ToyTarget(new_toy(toy, 0), "tms")
    sites = find_sites(target.model, toy.sites)
    reads = shared_inputs(target.model, sites, target.readout.example(), target.readout)
    assert reads == {"down": "down", "up": "up"}
    function = CIFunction(sites, reads, CIFunctionConfig(15, 2, 4, 16, kind="mlp"))
    x = inputs_of(toy, 0).batch(1, 0, 2, 6)
    inputs = {"down": x, "up": torch.randn(2, 6, 2)}
    whole = function(inputs)
    part = function({name: value[:, 2:3] for name, value in inputs.items()})
    torch.testing.assert_close(whole[:, 2:3], part)
    assert not any("attn" in name for name, _ in function.named_parameters())


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_toy_through_the_stage(experiment: str, tmp_path: Path) -> None:
    words = [f"experiment={experiment}", f"out={tmp_path / 'd'}", *TINY]
    folder = parts.run_stage("decompose", words)
    record = json.loads((folder / "decomposition.json").read_text())
    made = config(experiment, *TINY)
    assert [row["step"] for row in record["history"]] == [2, 4]
    assert set(record["truth"]) == set(record["truth_at_start"]) == set(record["sites"])
    assert {site["C"] for site in record["sites"].values()} == set(made.sites.values())
    assert not {"model", "languages", "mixture"} & set(record["config"])
    evidence = record["evidence"]["mse"]
    assert evidence["zero"] > evidence["unmasked"] >= 0
    assert any("mean_max_cosine" in row for row in record["truth"].values())
    for kind in ("png", "svg", "csv"):
        assert (folder / f"directions.{kind}").stat().st_size > 100
    target, _ = trained_toy(toy_of(made), 0, folder, torch.device("cpu"))
    assert load_decomposition(str(folder), target).sites.keys() == record["sites"].keys()


def test_a_finished_toy_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["experiment=toy_tms_5_2", f"out={tmp_path}", *TINY, "recipe.adversary=false"]
    parts.run_stage("decompose", words)
    assert "recovered against true" in capsys.readouterr().out
    before = json.loads((tmp_path / "decomposition.json").read_text())
    monkeypatch.setattr(Trainer, "train_step", None)
    monkeypatch.setattr("pd_finetune.plots.style.save", lambda *_: None)
    parts.run_stage("decompose", words)
    after = json.loads((tmp_path / "decomposition.json").read_text())
    assert after == before
    with pytest.raises(UserError, match="another target or configuration"):
        parts.run_stage("decompose", [*words, "recipe.lr=4e-3"])


def test_a_start_from_data_is_already_right_where_subcomponents_are_units(tmp_path: Path) -> None:
    """TMS in one subcomponent a feature, the wider side; training it does not undo that."""
    words = ["initial=ica", "initial_tokens=256", "toy.sites={down: 5, up: 5}"]
    made = config("toy_tms_5_2", *TINY, *words, f"out={tmp_path}")
    from pd_finetune import decompose

    record = json.loads((decompose.run(made) / "decomposition.json").read_text())
    for truth in (record["truth_at_start"], record["truth"]):
        for site in ("down", "up"):
            assert truth[site]["least_max_cosine"] > 0.99
            assert truth[site]["mean_norm_ratio"] == pytest.approx(1, abs=0.05)
    with pytest.raises(UserError, match="down has C=20, initial=ica makes 2 or 5 subcomponents"):
        decompose.run(config("toy_tms_5_2", *TINY, "initial=ica", f"out={tmp_path / 'other'}"))
