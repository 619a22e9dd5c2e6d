"""KL and its gradient against torch's kl_div through all logits at once, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pd_finetune.targets.divergence import divergence_from_clean

ROWS, POSITIONS, WIDTH, VOCAB = 2, 5, 6, 23


def parts(bias: bool) -> tuple[Tensor, Tensor, nn.Linear, Tensor]:
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCAB, bias=bias).requires_grad_(False)
    for parameter in head.parameters():
        parameter.normal_(0.0, 1.5)
    hidden, clean = torch.randn(2, ROWS, POSITIONS, WIDTH)
    return hidden, clean, head, torch.randn(ROWS, POSITIONS)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 9, 10, 256])
def test_value_and_gradient(bias: bool, chunk: int) -> None:
    hidden, clean, head, weights = parts(bias)
    hidden.requires_grad_(True)
    clean.requires_grad_(True)
    actual = divergence_from_clean(hidden, clean, head, chunk)
    (actual * weights).sum().backward()
    assert (actual.shape, actual.dtype) == ((ROWS, POSITIONS), torch.float32)
    assert clean.grad is None
    head64, leaf = head.double(), hidden.detach().double().requires_grad_(True)
    log_q = head64(leaf).log_softmax(-1)
    log_p = head64(clean.detach().double()).log_softmax(-1)
    expected = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    (expected * weights.double()).sum().backward()
    assert expected.min() > 0.1
    torch.testing.assert_close(actual.double(), expected.detach(), atol=1e-5, rtol=1e-5)
    assert hidden.grad is not None and leaf.grad is not None
    torch.testing.assert_close(hidden.grad.double(), leaf.grad, atol=1e-5, rtol=1e-5)


def test_the_head_matters_and_equal_states_have_none() -> None:
    hidden, clean, head, _ = parts(bias=True)
    assert divergence_from_clean(clean, clean.clone(), head).abs().max() < 1e-6
    with_bias = divergence_from_clean(hidden, clean, head)
    head.bias = None
    assert (divergence_from_clean(hidden, clean, head) - with_bias).abs().max() > 0.1


def test_certain_predictions_stay_finite() -> None:
    """Logits thousands apart: probabilities underflow to 0, the divergence does not."""
    head = nn.Linear(WIDTH, VOCAB, bias=False).requires_grad_(False)
    head.weight.zero_()[:WIDTH] = 5000 * torch.eye(WIDTH)
    clean, hidden = torch.eye(WIDTH)[:2], torch.eye(WIDTH)[1:3].requires_grad_(True)
    kl = divergence_from_clean(hidden, clean, head)
    assert kl.tolist() == pytest.approx([5000.0, 5000.0])
    kl.sum().backward()
    assert hidden.grad is not None and hidden.grad.isfinite().all()


def test_16_bit_states_with_a_32_bit_head() -> None:
    hidden, clean, head, _ = parts(bias=True)
    exact = divergence_from_clean(hidden, clean, head)
    rounded = divergence_from_clean(hidden.bfloat16(), clean.bfloat16(), head)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.3, rtol=0.1)
