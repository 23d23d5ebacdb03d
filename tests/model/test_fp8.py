"""Products in fp8: a scale for each token and each channel, and no value that spoils another."""

import pytest
import torch

from bertd import errors
from bertd.model import fp8


def relative_error(x_TK: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
    """Per token: the largest error of the product over the norms of what it multiplies."""
    got_TN = fp8.linear(weight_NK)(x_TK).float()
    exact_TN = x_TK.float() @ weight_NK.t()
    size_TN = x_TK.float().norm(dim=1, keepdim=True) * weight_NK.norm(dim=1)
    return ((got_TN - exact_TN).abs() / size_TN.clamp(min=1e-30)).amax(dim=1)


def random(tokens: int, width: int, seed: int) -> torch.Tensor:
    """Seeded normal values."""
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4, 1e30])
def test_products_are_near_at_any_scale(size: float) -> None:
    """Tokens of any magnitude keep their three bits."""
    x_TK = (random(50, 64, 0) * size).bfloat16()
    assert float(relative_error(x_TK, random(32, 64, 1)).max()) < 0.02


def test_zeros_stay_zeros() -> None:
    """A token of zeros and a channel of zeros give zeros, never NaN."""
    weight_NK = random(32, 64, 1)
    weight_NK[3] = 0
    x_TK = random(5, 64, 0).bfloat16()
    x_TK[2] = 0
    got_TN = fp8.linear(weight_NK)(x_TK)
    assert (got_TN[2] == 0).all()
    assert (got_TN[:, 3] == 0).all()
    assert torch.isfinite(got_TN).all()


def test_a_token_does_not_feel_its_mates() -> None:
    """An outlier of 1e4 in one token changes no bit of another one's product (D7)."""
    weight_NK = random(32, 64, 1)
    x_TK = random(5, 64, 0).bfloat16()
    alone_TN = fp8.linear(weight_NK)(x_TK[:1])
    x_TK[1:] *= 1e4
    assert torch.equal(fp8.linear(weight_NK)(x_TK)[:1], alone_TN)


def test_a_channel_does_not_feel_an_outlier_of_another() -> None:
    """A weight of 1e4 in one channel leaves the others as exact as they were."""
    weight_NK = random(32, 64, 1)
    x_TK = random(5, 64, 0).bfloat16()
    before_TN = fp8.linear(weight_NK)(x_TK)
    weight_NK[7, 9] = 1e4
    after_TN = fp8.linear(weight_NK)(x_TK)
    others = [n for n in range(32) if n != 7]
    assert torch.equal(before_TN[:, others], after_TN[:, others])


def test_onto_adds_in_place() -> None:
    """The product is added to what is there, in the same memory."""
    made = fp8.linear(random(32, 64, 1))
    x_TK, y_TN = random(5, 64, 0).bfloat16(), random(5, 32, 2).bfloat16()
    expected = y_TN + made(x_TK)
    assert made.onto(y_TN, x_TK) is y_TN
    assert torch.equal(y_TN, expected)


@pytest.mark.parametrize(("outputs", "inputs"), [(24, 64), (64, 24)])
def test_sizes_that_products_do_not_take(outputs: int, inputs: int) -> None:
    """A base of unusual sizes is refused when it loads, not by its first batch."""
    with pytest.raises(errors.BadArtifact, match="multiples of 16") as caught:
        fp8.linear(random(outputs, inputs, 0))
    assert caught.value.reason == "NoSuchPrecision"
