"""Chunked cross-entropy against torch's through all logits at once, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pd_finetune.pretraining.vocabulary_loss import chunked_cross_entropy

POSITIONS, WIDTH, VOCAB = 11, 5, 17


def made() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(0, VOCAB, (POSITIONS,))
    return torch.randn(POSITIONS, WIDTH), torch.randn(VOCAB, WIDTH), labels


@pytest.mark.parametrize("chunk", [1, 4, 10, 11, 512])
def test_value_and_gradients(chunk: int) -> None:
    hidden, weight, labels = made()
    mine = [t.clone().requires_grad_(True) for t in (hidden, weight)]
    loss = chunked_cross_entropy(*mine, labels, chunk)
    actual = torch.autograd.grad(3.0 * loss, mine)
    exact = [t.double().requires_grad_(True) for t in (hidden, weight)]
    expected = F.cross_entropy(exact[0] @ exact[1].T, labels)
    gradients = torch.autograd.grad(3.0 * expected, exact)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=1e-6)
    for one, other in zip(actual, gradients, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=1e-5)


def test_a_wholly_wrong_prediction_stays_finite() -> None:
    hidden = torch.tensor([[1.0, 0.0]], requires_grad=True)
    weight = torch.tensor([[500.0, 0.0], [-500.0, 0.0]])
    loss = chunked_cross_entropy(hidden, weight, torch.tensor([1]))
    assert loss.item() == pytest.approx(-math.log(1.2e-38), rel=1e-3)
    loss.backward()
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad, torch.tensor([[1000.0, 0.0]]))
