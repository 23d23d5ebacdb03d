"""What training minimises, one loss for each kind of problem, and how labels are weighed in it.

Shapes: B rows, L tokens, C labels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import torch
import torch.nn.functional as F

from bertd.bitfit import problems

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def weights(
    problem: str, marks: Sequence[Sequence[int]], labels: int, balance: float
) -> list[float]:
    """The weight of each label, from the classes that hold for each row of logits.

    With one class a row: proportional to rows ** -balance, scaled so that the mean over rows is 1.
    With any number: what a row that has the label counts against one that has not, (rows without /
    rows with) ** balance. A balance of 0 weighs all alike.
    """
    counts = [0] * labels
    for classes in marks:
        for label in classes:
            counts[label] += 1
    if problem == problems.MultiLabel.name:
        return [
            ((len(marks) - n) / max(n, 1)) ** balance if n < len(marks) else 1.0 for n in counts
        ]
    raw = [max(n, 1) ** -balance for n in counts]
    whole = math.fsum(n * weight for n, weight in zip(counts, raw, strict=True))
    return [weight * sum(counts) / whole if whole else 1.0 for weight in raw]


def _single(
    logits_BC: torch.Tensor, labels_B: torch.Tensor, weights_C: torch.Tensor
) -> torch.Tensor:
    rows_B = F.cross_entropy(logits_BC, labels_B, reduction="none")
    return (rows_B * weights_C[labels_B]).mean()


def _several(
    logits_BC: torch.Tensor, labels_BC: torch.Tensor, weights_C: torch.Tensor
) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(logits_BC, labels_BC, pos_weight=weights_C)


def _value(logits_B1: torch.Tensor, labels_B1: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(logits_B1, labels_B1)


def _tokens(
    logits_BLC: torch.Tensor, labels_BL: torch.Tensor, weights_C: torch.Tensor
) -> torch.Tensor:
    """The mean over the words of the batch; a batch without any has loss 0."""
    asked_BL = labels_BL != problems.IGNORED
    labels_n = labels_BL[asked_BL]
    words_n = F.cross_entropy(logits_BLC[asked_BL], labels_n, reduction="none")
    return (words_n * weights_C[labels_n]).sum() / max(len(labels_n), 1)


BY_NAME: Final[Mapping[str, Loss]] = MappingProxyType(
    {"single_label": _single, "multi_label": _several, "regression": _value, "token": _tokens}
)
