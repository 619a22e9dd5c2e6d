"""Values and slopes of the two leaky clamps, point by point."""

import pytest
import torch

from pd_finetune.decomposition.sigmoids import lower_leaky, upper_leaky

# x, value, gradient for an incoming +2 (descent would lower x) and for an incoming -2 (raise it)
LOWER = [
    (-3.0, 0.0, 0.0, -0.02),
    (-1e-9, 0.0, 0.0, -0.02),
    (0.0, 0.0, 0.0, -0.02),
    (1e-9, 1e-9, 2.0, -2.0),
    (0.4, 0.4, 2.0, -2.0),
    (1.0, 1.0, 2.0, -2.0),
    (1.0 + 1e-9, 1.0, 0.0, 0.0),
    (5.0, 1.0, 0.0, 0.0),
]
# x, value, slope whatever the sign of the incoming gradient
UPPER = [
    (-3.0, 0.0, 0.0),
    (-1e-9, 0.0, 0.0),
    (1e-9, 1e-9, 1.0),
    (0.4, 0.4, 1.0),
    (1.0, 1.0, 1.0),
    (1.5, 1.005, 0.01),
    (6.0, 1.05, 0.01),
]


@pytest.mark.parametrize(("x", "value", "falling", "rising"), LOWER)
def test_lower_leaky(x: float, value: float, falling: float, rising: float) -> None:
    for incoming, expected in ((2.0, falling), (-2.0, rising)):
        leaf = torch.tensor([x], dtype=torch.float64, requires_grad=True)
        y = lower_leaky(leaf)
        y.backward(torch.tensor([incoming], dtype=torch.float64))
        assert y.dtype == torch.float64
        assert y.item() == value
        assert leaf.grad is not None
        # a hundredth of the incoming 2 below zero
        assert leaf.grad.item() == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize(("x", "value", "slope"), UPPER)
def test_upper_leaky(x: float, value: float, slope: float) -> None:
    for incoming in (2.0, -2.0):
        leaf = torch.tensor([x], dtype=torch.float64, requires_grad=True)
        y = upper_leaky(leaf)
        y.backward(torch.tensor([incoming], dtype=torch.float64))
        assert y.item() == pytest.approx(value, rel=1e-15, abs=0)
        assert leaf.grad is not None
        assert leaf.grad.item() == pytest.approx(incoming * slope, rel=1e-12, abs=0)


def test_a_dead_subcomponent_comes_back_and_stays_off_when_useless() -> None:
    """Descent on (g - 1)^2 raises x from below 0; descent on (g + 1)^2 leaves it where it is."""
    for aim, moves in ((1.0, True), (-1.0, False)):
        x = torch.tensor([-0.5], dtype=torch.float64, requires_grad=True)
        (lower_leaky(x) - aim).square().sum().backward()
        assert x.grad is not None
        assert (x.grad.item() < 0) == moves
        assert (x.grad.item() == 0) == (not moves)
