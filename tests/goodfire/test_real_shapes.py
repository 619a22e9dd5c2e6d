"""The published runs' names and shapes go through the conversion; no weights are needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import goodfire_full_size
from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.goodfire.architecture import PUBLISHED
from pd_finetune.goodfire.ci_weights import ci_shapes, ci_size, our_ci_weights
from pd_finetune.goodfire.decomposition import expected_shapes, shared_reads, sites_of
from pd_finetune.goodfire.names import arcee_name, current_names
from pd_finetune.goodfire.schema import Fields
from pd_finetune.targets.keys import SubcomponentKey
from tests.goodfire.fixture import ABSENT, real_shapes
from tests.goodfire.writer import Checkpoint

CI_SETTINGS = Fields({"attn_config": {"n_heads": 16}}, Path("final_config.yaml"))
TARGET = PUBLISHED["t-9d2b8f02"]


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    shapes = real_shapes()
    if shapes is None:
        pytest.skip(ABSENT)
    (one,) = (v for k, v in shapes.items() if "s-55ea3f9b" in k)
    made = {name: torch.empty(shape, device="meta") for name, shape in one.items()}
    rates = 10000.0 ** (-torch.arange(64) / 64)
    return {name: rates if "inv_freq" in name else tensor for name, tensor in made.items()}


def test_target(tensors):
    mine = {
        name.removeprefix("target_model."): tuple(tensor.shape)
        for name, tensor in tensors.items()
        if name.startswith("target_model.")
    }
    assert mine == TARGET.shapes()
    assert mine.pop("lm_head.weight") == (50277, 768)
    from transformers import ArceeForCausalLM

    with torch.device("meta"):
        model = ArceeForCausalLM(TARGET.arcee())
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {
        arcee_name(name): shape for name, shape in mine.items()
    }
    assert sum(p.numel() for p in model.parameters()) == 66_931_200


def test_decomposition(tensors):
    assert len(tensors) == 159 and current_names(tensors).keys() == tensors.keys()
    sites = sites_of(tensors)
    assert sum(site.C for site in sites.values()) == 38_912
    assert sites["h.3.attn.v_proj"].C == 1024 and len(sites) == 24
    reads = shared_reads(sites)
    size = ci_size(tensors, CI_SETTINGS)
    assert (size.width, size.blocks, size.heads, size.mlp_width) == (2048, 8, 16, 8192)
    assert expected_shapes(tensors, sites, ci_shapes(sites, size)) == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }
    with torch.device("meta"):
        function = CIFunction(sites, reads, size)
    ours = our_ci_weights(tensors, sites, reads, size)
    expected = {name: tensor.shape for name, tensor in function.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.items()} == expected


def test_the_benchmark_has_the_published_shapes(tensors, monkeypatch):
    def shape_alone(self, *shape, scale=1.0):
        return torch.empty(*shape, device="meta")

    monkeypatch.setattr(Checkpoint, "_normal", shape_alone)
    made = goodfire_full_size.checkpoint()
    assert {name: tensor.shape for name, tensor in made.decomposition.items()} == {
        name: tensor.shape for name, tensor in tensors.items()
    }
    assert made.model_config()["n_ctx"] == 512 and made.model_config()["n_head"] == 6
    assert SubcomponentKey.parse(goodfire_full_size.KEY).index < made.C["h.3.attn.v_proj"]


def test_the_published_settings_build_at_full_size(tensors):
    """`experiment=vpd_paper`, without memory: every shape is that of the published checkpoint."""
    from transformers import ArceeForCausalLM

    from pd_finetune.decomposition.components import Subcomponents
    from pd_finetune.decomposition.sites import find_sites
    from tests.composed import stage

    config = stage("decompose", "experiment=vpd_paper")
    with torch.device("meta"):
        model = ArceeForCausalLM(TARGET.arcee()).requires_grad_(False)
        sites = find_sites(model, config.sites)
        reads = shared_reads(sites)
        components = Subcomponents(sites)
        function = CIFunction(sites, reads, config.ci_function)
    published = sites_of(tensors)
    assert {n: (s.d_in, s.d_out, s.C) for n, s in sites.items()} == {
        n: (s.d_in, s.d_out, s.C) for n, s in published.items()
    }
    assert sum(function.C) == 38_912
    count = sum(p.numel() for p in components.parameters())
    assert count == sum(t.numel() for n, t in tensors.items() if n.startswith("_components."))
    size = ci_size(tensors, CI_SETTINGS)
    assert config.ci_function == size
    theirs = our_ci_weights(tensors, sites, reads, size)
    assert {n: t.shape for n, t in function.state_dict().items()} == {
        n: t.shape for n, t in theirs.items()
    }


def test_the_published_losses_and_schedule():
    from tests.composed import stage

    recipe = stage("decompose", "experiment=vpd_paper").recipe
    assert (recipe.steps, recipe.rows, recipe.window) == (400_000, 64, 512)
    assert (recipe.lr, recipe.lr_final_fraction, recipe.clip) == (5e-5, 0.1, 0.01)
    assert (recipe.minimality_coefficient, recipe.beta) == (2e-4, 0.5)
    assert (recipe.p_start, recipe.p_end, recipe.faithfulness_coefficient) == (2.0, 0.4, 1e7)
    assert (recipe.adversary_lr, recipe.adversary_betas) == (0.01, [0.5, 0.99])
    assert (recipe.adversary_scope, recipe.adversary_extra_climbs) == ("position", 2)
    assert recipe.adversary_warmup_fraction == 0.025
