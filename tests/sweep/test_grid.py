"""The jobs of a sweep: Hydra's own configs, shared out without loss."""

from collections.abc import Iterator

import hydra
import pytest
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from pd_finetune.cli.checked import checked_config
from pd_finetune.cli.store import register
from pd_finetune.errors import UserError
from pd_finetune.files import config_folder
from pd_finetune.finetuning.config import RunConfig
from pd_finetune.sweep.grid import Grid
from pd_finetune.sweep.shard import Shard


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    register("run", RunConfig)
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def master(loader: ConfigLoader, *overrides: str) -> DictConfig:
    return loader.load_configuration("run", list(overrides), RunMode.MULTIRUN)


def plain(config: DictConfig) -> object:
    return OmegaConf.to_container(config, resolve=True)


@given(st.integers(0, 300), st.integers(1, 40))
def test_shards_share_out_the_whole(jobs: int, count: int) -> None:
    numbers = list(range(jobs))
    parts = [Shard(index, count).of(numbers) for index in range(count)]
    assert sorted(number for part in parts for number in part) == numbers
    assert all(part == sorted(part) for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["4/4", "0", "1/0", "-1/2", "a/b", "0/2 ", "0/2/3", ""])
def test_an_impossible_shard_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="give i/N"):
        Shard.parse(text)
    assert Shard.parse("2/3") == Shard(2, 3)


@pytest.mark.parametrize(
    "arguments",
    [
        ["arm=one_scalar,top16,lora_r4", "budget=1,8", "seed=0,3"],
        # of choices, values, lists, strings with blanks, additions and deletions
        ["method=mask,lora_r1", "method.lr=1e-3,0.5", "languages.target=fr,es"],
        ["selection=keys", "selection.keys=[h.0.attn.o_proj:39],[h.1.attn.v_proj:79]", "seed=1,2"],
        ["debug=tiny", "evaluation.rollouts={de: 'Ein Satz, und'},{}", "device=cpu,auto"],
        ["evaluation=fast", "+evaluation.rollouts.it=Per,A", "budget=2,3", "paths.runs=a b,c"],
        ["budget=1,2", "~evaluation.rollouts.fr", "logger.group=x,y", "objective.steps=3"],
    ],
)
def test_configs_are_as_hydra_composes_them(loader: ConfigLoader, arguments: list[str]) -> None:
    grid = Grid(loader, master(loader), arguments)
    assert len(grid.jobs) >= 4
    for job in grid.jobs:
        composed = grid.config(job)
        whole = hydra.compose("run", list(job.overrides))
        assert plain(composed) == plain(whole)
        assert checked_config(composed) == checked_config(whole)


def test_configs_are_each_jobs_own(loader: ConfigLoader) -> None:
    grid = Grid(loader, master(loader), ["budget=1,2,4"])
    first, second, third = map(grid.config, grid.jobs)
    first.objective.steps = 7
    assert (second.objective.steps, third.budget, second.budget) == (60, 4, 2)


def test_names_and_order(loader: ConfigLoader) -> None:
    grid = Grid(
        loader, master(loader), ["arm=top16", "budget=1", "logger=none", "seed=0,1", "budget=4,8"]
    )
    assert [job.name for job in grid.jobs] == [
        *("budget=4 seed=0", "budget=4 seed=1", "budget=8 seed=0", "budget=8 seed=1")
    ]
    assert [job.number for job in grid.jobs] == [0, 1, 2, 3]


def test_a_shard_is_no_property_of_a_job(loader: ConfigLoader) -> None:
    whole = Grid(loader, master(loader), ["budget=1,2"])
    part = Grid(loader, master(loader, "shard=1/2"), ["budget=1,2", "shard=1/2"])
    assert part.jobs == whole.jobs and part.name("x") == whole.name("x")
    assert part.config(part.jobs[0]).shard is None
    with pytest.raises(UserError, match="one value"):
        Grid(loader, master(loader), ["shard=0/2,1/2"])


@pytest.mark.parametrize("argument", ["budget=1,x", "budgte=1,2", "arm=top16,top17"])
def test_a_mistake_in_any_job(loader: ConfigLoader, argument: str) -> None:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    grid = Grid(loader, master(loader), [argument])
    with pytest.raises((HydraException, OmegaConfBaseException)):
        for job in grid.jobs:
            grid.config(job)
