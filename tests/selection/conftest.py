"""A tiny random target, decomposition and text; the harvest of them, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pd_finetune.decomposition.ci_function import CIFunction, CIFunctionConfig
from pd_finetune.decomposition.components import Subcomponents, shared_inputs
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.sites import find_sites
from pd_finetune.pretraining.config import ArchitectureConfig
from pd_finetune.pretraining.initialise import build
from pd_finetune.pretraining.tokenizer import train_tokenizer
from pd_finetune.selection.harvest import Harvest, harvest
from pd_finetune.targets.load import Target
from tests.goodfire.fixture import ABSENT, fixture_folder

WORDS = {
    "de": "der die nicht und eine Zeitung schön über Häuser ist das",
    "en": "the not and a newspaper beautiful over houses is that",
    "fr": "le la pas et un journal beau sur maisons est où",
}
ROWS, BATCH, WINDOW = 7, 3, 12  # the last batch is a short one


class WordSource:
    """Documents of random words, a function of the language alone."""

    def __init__(self, words: int = 400) -> None:
        self.words = words

    def documents(self, language: str, split: str) -> list[str]:
        rng = np.random.default_rng(len(language) + ord(language[0]))
        return [" ".join(rng.choice(WORDS[language].split(), self.words)) for _ in range(2)]

    def fingerprint(self, language: str) -> str:
        return f"{language}-{self.words}"


@pytest.fixture(scope="session", autouse=True)
def one_thread_own_cache(tmp_path_factory: pytest.TempPathFactory):
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PD_FINETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def source() -> WordSource:
    return WordSource()


@pytest.fixture(scope="session")
def target(source: WordSource) -> Target:
    tokenizer = train_tokenizer(source, dict.fromkeys(WORDS, 1.0), 300, 3000)
    model = build(ArchitectureConfig(300, 16, 2, 2, 32, 16), seed=1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(12.0)  # so that predictions differ between positions
    return Target(model.requires_grad_(False).eval(), tokenizer, "tiny")


@pytest.fixture(scope="session")
def decomposition(target: Target) -> Decomposition:
    patterns = {"h.*.attn.v_proj": 6, "h.*.attn.o_proj": 5, "h.0.mlp.c_fc": 9}
    sites = find_sites(target.model, patterns)
    torch.manual_seed(2)
    components = Subcomponents(sites)
    ids = torch.zeros(1, 4, dtype=torch.int64)
    reads = shared_inputs(target.model, sites, ids)
    ci_function = CIFunction(sites, reads, CIFunctionConfig(16, 1, 2, 24))
    with torch.no_grad():
        for parameter in components.parameters():
            parameter.normal_()
        ci_function.output_head.weight.mul_(3.0)
        ci_function.output_head.bias.uniform_(-3.0, 1.0)
        ci_function.output_head.bias[0] = -50.0  # one that is dead
    return Decomposition(components, ci_function.eval(), WINDOW, hash="d" * 64)


@pytest.fixture(scope="session")
def harvested(target: Target, decomposition: Decomposition, source: WordSource) -> Harvest:
    return harvest(target, decomposition, source, list(WORDS), ROWS, batch=BATCH, progress=False)


@pytest.fixture(scope="session")
def goodfire_fixture() -> Path:
    folder = fixture_folder()
    if folder is None:
        pytest.skip(ABSENT)
    return folder
