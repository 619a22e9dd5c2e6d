"""The causal-importance function: what it reads, and how its output is cut into sites."""

import pytest
import torch

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import recorded_inputs
from pd_finetune.decomposition.config import CIFunctionConfig
from pd_finetune.errors import UserError
from tests import tiny
from tests.decomposition import parts


def made() -> tuple[CIFunction, dict[str, torch.Tensor]]:
    target = tiny.target()
    sites = parts.sites_of(target)
    function = parts.ci_function(target.model, sites)
    with torch.no_grad(), recorded_inputs(target.model, sites) as inputs:
        target.model(input_ids=parts.IDS, use_cache=False)
    return function.requires_grad_(False), inputs


def test_cut_into_sites_in_sorted_order() -> None:
    function, inputs = made()
    x = function(inputs)
    assert x.min() < 0 and x.max() > 1
    whole, offset = function.causal_importances(inputs), 0
    assert list(whole) == function.order == sorted(whole)
    for name, values in whole.items():
        C = function.C[function.order.index(name)]
        expected = x[..., offset : offset + C].clamp(0, 1)
        torch.testing.assert_close(values, expected)
        torch.testing.assert_close(function.split(x)[name].clamp(0, 1), expected)
        offset += C
    assert offset == x.shape[-1]
    some = ["h.1.mlp.c_fc", "h.0.attn.o_proj"]
    fewer = function.causal_importances(inputs, some)
    assert list(fewer) == some
    for name in some:
        torch.testing.assert_close(fewer[name], whole[name])


def test_reads_both_sides_positions_and_directions_alone() -> None:
    function, inputs = made()
    x = function(inputs)
    cut = function({name: value[:, :6] for name, value in inputs.items()})
    assert (cut - x[:, :6]).abs().amax(-1).min() > 1e-3  # later tokens matter to all before
    flipped = function({name: value.flip(1) for name, value in inputs.items()}).flip(1)
    assert (flipped - x).abs().max() > 1e-3  # and so does their order
    scaled = function({name: 3 * value for name, value in inputs.items()})
    torch.testing.assert_close(scaled, x, atol=1e-3, rtol=1e-3)  # RMS-normed


def test_one_read_for_a_shared_input() -> None:
    function, inputs = made()
    assert {name for name in function.inputs if ".attn." in name} == {
        *(f"h.{i}.attn.o_proj" for i in range(2)),
        *(f"h.{i}.attn.q_proj" for i in range(2)),
    }
    only = {name: inputs[name] for name in function.inputs}
    torch.testing.assert_close(function(only), function(inputs))


@pytest.mark.parametrize(("width", "heads"), [(16, 3), (12, 4), (0, 1), (16, 0)])
def test_impossible_sizes(width: int, heads: int) -> None:
    with pytest.raises(UserError, match=r"ci_function\.(width|heads)="):
        CIFunctionConfig(width=width, heads=heads)
