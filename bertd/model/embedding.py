"""What the first layer reads: word, position and segment vectors, summed and normalised.

Shapes: T tokens, D hidden width.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
import torch.nn.functional as F

from bertd import families


class Tokens(Protocol):
    """The integers that embeddings read, wherever their tables lie: [T] each."""

    @property
    def ids_T(self) -> torch.Tensor:
        """Words."""

    @property
    def types_T(self) -> torch.Tensor:
        """Segments."""

    @property
    def positions_T(self) -> torch.Tensor:
        """Places in the row."""


class Embedding:
    """The embeddings of a family; sums, LayerNorm and ELECTRA's projection are in fp32.

    Args:
        shape: the family's shape.
        weights: canonical name -> fp32 tensor.
        dtype: of the tables, which are large and read a row at a time.
    """

    def __init__(
        self, shape: families.EncoderShape, weights: Mapping[str, torch.Tensor], dtype: torch.dtype
    ) -> None:
        def table(name: str) -> torch.Tensor:
            return weights[f"embeddings.{name}.weight"].to(dtype).contiguous()

        self._eps = shape.norm_eps
        self._word = table("word")
        self._position = table("position")
        self._token_type = table("token_type") if shape.token_types else None
        self._gain = weights["embeddings.norm.weight"].float()
        self._project = weights["embeddings.project.weight"].float() if shape.projects else None

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        parts = (self._word, self._position, self._token_type, self._gain, self._project)
        return sum(part.nbytes for part in parts if part is not None)

    def __call__(self, batch: Tokens) -> torch.Tensor:
        """Hidden states [T, D] in fp32, without the bias of their LayerNorm."""
        x_TD = F.embedding(batch.ids_T, self._word).float()
        if self._token_type is not None:
            x_TD += F.embedding(batch.types_T, self._token_type)
        x_TD += F.embedding(batch.positions_T, self._position)
        x_TD = F.layer_norm(x_TD, self._gain.shape, weight=self._gain, eps=self._eps)
        return x_TD if self._project is None else F.linear(x_TD, self._project)
