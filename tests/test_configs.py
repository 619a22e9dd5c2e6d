"""Every option of every group composes with its schema; impossible values are refused."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from pd_finetune.cli.checked import checked_config
from pd_finetune.cli.compose import config_options
from pd_finetune.cli.experiments import check_experiment, experiment_stages
from pd_finetune.cli.store import register
from pd_finetune.edits.config import LoraConfig
from pd_finetune.errors import UserError
from pd_finetune.files import config_folder
from pd_finetune.selection.config import TopSelection
from tests.composed import STAGES, schema

# what an option needs beside itself
NEEDED = {
    ("model", "hf"): ["model.folder=here"],
    ("decomposition", "folder"): ["decomposition.folder=here"],
    ("languages", "local"): ["languages.source.folder=here"],
    ("selection", "keys"): ["selection.keys=[h.3.attn.v_proj:513]"],
}
NOT_GROUPS = {"stage"}


def options() -> Iterator[tuple[str, str]]:
    for path in sorted(config_folder().glob("*/*.yaml")):
        if path.parent.name not in NOT_GROUPS:
            yield path.parent.name, path.stem


@pytest.fixture(autouse=True)
def composing() -> Iterator[None]:
    for stage in STAGES:
        register(stage, schema(stage))
    OmegaConf.register_new_resolver("config_options", config_options, replace=True)
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield


def composed(root: str, *overrides: str) -> Any:
    return checked_config(hydra.compose(root, list(overrides)))


@pytest.mark.parametrize("root", STAGES)
def test_defaults_compose(root: str) -> None:
    needed = ["run=runs/x", "out=y"] if root == "export" else []
    assert type(composed(root, *needed)) is schema(root)


@pytest.mark.parametrize(("group", "option"), list(options()))
def test_every_option_composes(group: str, option: str) -> None:
    root = "decompose" if group in ("recipe", "ci_function", "toy") else "run"
    if group == "experiment":
        root = experiment_stages(config_folder())[option]
    composed(root, f"{group}={option}", *NEEDED.get((group, option), []))


@pytest.mark.parametrize("path", sorted(config_folder().glob("**/*.yaml")), ids=lambda p: p.stem)
def test_every_yaml_says_what_it_is(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line for line in lines[:2] if line.startswith("# ") and "@package" not in line]
    assert comments


def test_values_of_options() -> None:
    run = composed("run", "method=lora_r4", "selection=top16", "logger=none")
    assert isinstance(run.method, LoraConfig)
    assert (run.method.name, run.method.rank, run.method.where) == ("lora_r4", 4, "all")
    assert isinstance(run.selection, TopSelection)
    assert run.selection.count == 16
    assert run.logger.kind == "none"
    assert run.languages.off_target == ["fr", "es", "it", "code"]
    local = composed("run", "method=localized_lora")
    assert (local.method.rank, local.method.where) == (1, "selected")
    paper = composed("decompose", "recipe=paper").recipe
    assert (paper.recon, paper.minimality, paper.faithfulness_coefficient) == (
        "separate",
        "p_norm",
        1e7,
    )


def test_wandb_is_offline_by_default() -> None:
    assert composed("run").logger.kind == "wandb_offline"


def test_arms_choose_method_and_selection() -> None:
    top = composed("run", "arm=top16")
    assert (top.method.name, type(top.selection)) == ("mask", TopSelection)
    assert composed("run", "arm=lora_r4").method.name == "lora_r4"


@pytest.mark.parametrize(("experiment", "runs"), [("write_up", 550), ("write_up_small", 100)])
def test_write_ups_walk_all_arms(experiment: str, runs: int) -> None:
    full = hydra.compose("run", [f"experiment={experiment}"], return_hydra_config=True)
    params = {name: str(values).split(",") for name, values in full.hydra.sweeper.params.items()}
    assert len(list(itertools.product(*params.values()))) == runs
    assert {path.stem for path in (config_folder() / "arm").glob("*.yaml")} == {*params["arm"]}
    budgets = [int(budget) for budget in params["budget"]]
    assert all(budget == 2 ** round(math.log2(budget)) for budget in budgets)
    assert budgets == sorted(budgets)


def test_toys_bring_their_sites_and_settings() -> None:
    small, large = (composed("decompose", f"experiment=toy_tms_{n}") for n in ("5_2", "40_10"))
    assert small.sites == {"down": 20, "up": 20} and large.sites == {"down": 100, "up": 100}
    for made, frequency in ((small, 4e-2), (large, 4e-3)):
        recipe = made.recipe
        assert (recipe.minimality_coefficient, recipe.frequency_coefficient) == (0.0, frequency)
        assert (recipe.frequency_scale, recipe.faithfulness_coefficient) == (1, 1.0)
        assert made.ci_function.kind == "mlp"
    assert not composed(
        "decompose", "experiment=toy_tms_5_2", "recipe.adversary=false"
    ).recipe.adversary
    assert composed("decompose").toy is None


def test_a_share_of_0_leaves_a_language_out() -> None:
    assert set(composed("decompose", "mixture.code=0").mixture) == {"en", "de", "fr", "es", "it"}
    assert composed("decompose", "experiment=vpd_paper").mixture == {"en": 1}


@pytest.mark.parametrize(
    ("stage", "override", "message"),
    [
        (
            "decompose",
            "experiment=write_up",
            "is of python -m pd_finetune.run; possible here are front, ica",
        ),
        ("run", "experiment=toy_tms_5_2", "pd_finetune.decompose; possible here are write_up"),
        ("decompose", "experiment=toy_tms_5", "did you mean toy_tms_5_2?"),
    ],
)
def test_an_experiment_of_another_stage(stage: str, override: str, message: str) -> None:
    with pytest.raises(UserError, match="^experiment=") as caught:
        check_experiment(config_folder(), stage, [override])
    assert message in str(caught.value)
    check_experiment(config_folder(), "harvest", [override])  # Hydra says that it has no such group


@pytest.mark.parametrize("root", STAGES)
def test_no_folder_is_named_by_the_clock(root: str) -> None:
    full = hydra.compose(root, return_hydra_config=True)
    assert full.hydra.output_subdir is None
    with open_dict(full):
        full.hydra.job.num = 0
    HydraConfig.instance().set_config(full)
    assert full.hydra.run.dir == "."
    assert full.hydra.sweep.subdir == "."
    assert full.hydra.sweep.dir == ("runs" if root == "run" else ".")


@pytest.mark.parametrize(
    ("root", "overrides", "message"),
    [
        ("run", ["budget=-1"], "budget=-1"),
        ("run", ["seed=-1"], "seed=-1"),
        ("run", ["languages.target=zz"], "languages.target=zz: possible are de, en"),
        ("run", ["languages.target=en"], "also in languages.preserve"),
        ("run", ["languages.preserve=[]"], "languages.preserve is empty"),
        ("run", ["selection=keys"], "selection.keys is empty"),
        ("run", ["selection=top16", "selection.count=0"], "selection.count=0"),
        ("run", ["selection.choose=x"], "possible are effect, price, share, only"),
        ("run", ["method.lr=0"], "method.lr=0"),
        ("run", ["method=lora_r1", "method.rank=0"], "method.rank=0"),
        ("run", ["evaluation.split=train"], "possible are validation, test"),
        ("run", ["model=hf"], "model.folder is missing"),
        ("run", ["languages=local"], "languages.source.folder is missing"),
        ("run", ["+foo=1"], "unknown key foo"),
        ("run", ["+method.rnk=1"], "unknown key method.rnk"),
        ("pretrain", ["+mixture.zz=1"], "mixture.zz"),
        ("pretrain", ["mixture.de=-1"], "mixture.de=-1"),
        ("pretrain", ["architecture.heads=3"], "architecture.width=128"),
        ("pretrain", ["precision=float16"], "possible are auto, float32, bfloat16"),
        ("decompose", ["recipe.recon=x"], "possible are merged, separate"),
        ("decompose", ["recipe.minimality=l1"], "possible are smooth_l0, p_norm"),
        ("decompose", ["recipe.adversary_betas=[0.5]"], "give two numbers"),
        ("decompose", ["recipe.rows=1"], "recipe.rows=1"),
        ("decompose", ["~sites", "+sites={}"], "sites is empty"),
        ("decompose", ["ci_function.kind=x"], "possible are transformer, mlp"),
        ("decompose", ["micro_batch=-1"], "micro_batch=-1"),
        ("decompose", ["recipe.adversary_warmup_fraction=2"], "adversary_warmup_fraction=2"),
        ("decompose", ["mixture={en: 0, de: 0, fr: 0, es: 0, it: 0, code: 0}"], "mixture is empty"),
        ("decompose", ["initial=x"], "possible are row_space, free, pca, ica"),
        ("decompose", ["toy=tms_5_2", "toy.model.hidden=5"], "toy.model.hidden=5"),
        ("decompose", ["toy=residual_mlp", "toy.model.embedding=3"], "toy.model.embedding=3"),
        ("decompose", ["toy=tms_5_2", "toy.probability=0"], "toy.probability=0"),
        ("quality", ["split=train"], "split=train: possible are validation, test"),
        ("quality", ["adversary.rungs=[20,20]"], "give rising numbers of steps"),
        ("quality", ["adversary.restarts=0"], "adversary.restarts=0"),
        ("harvest", ["batch=0"], "batch"),
        ("export", ["out=x"], "run is missing"),
    ],
)
def test_impossible_values(root: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        composed(root, *overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("budget", "smallest"), [(1, 1), (15, 1), (16, 16), (255, 16), (256, 256), (5000, 256)]
)
def test_settings_are_those_of_the_budgets_band(budget: int, smallest: int) -> None:
    for arm in ("one_scalar", "top16", "lora_r1", "lora_r4", "localized_lora"):
        config = composed("run", f"arm={arm}", f"budget={budget}")
        tuned = config.method.bands[str(smallest)]
        assert (config.method.lr, config.method.kl_weight) == (tuned.lr, tuned.kl_weight)
        assert config.objective.kl_weight == tuned.kl_weight
    assert composed("run", f"budget={budget}", "method.lr=7.0").method.lr == 7.0
