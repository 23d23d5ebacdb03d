"""The model that learns: a transformers encoder under a head that computes as the served one does.

Shapes: B rows, L tokens of the longest row, D hidden width, C labels.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from bertd.model import heads

# The spread of BERT's own first weights (Devlin et al. 2018); a head starts no wider.
INITIAL_STD = 0.02


class Head(nn.Module):
    """`linear`: dropout and one product; `dense-*`: a hidden layer before it, dropout around."""

    def __init__(self, kind: str, hidden: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.kind = kind
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(hidden, hidden) if kind in heads.DENSE else None
        self.out = nn.Linear(hidden, labels)
        for layer in (self.dense, self.out):
            if layer is not None:
                nn.init.normal_(layer.weight, std=INITIAL_STD)
                nn.init.zeros_(layer.bias)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        """[B, D] -> logits [B, C]."""
        x_BD = self.dropout(x_BD)
        if self.dense is not None:
            x_BD = self.dropout(heads.DENSE[self.kind](self.dense(x_BD)))
        logits: torch.Tensor = self.out(x_BD)
        return logits


class Classifier(nn.Module):
    """An encoder, one vector per row, a head, and the loss that the Trainer minimises.

    `head_input` is `mean` (over a row's tokens), `cls` (its first) or `pooler`. `weights_C` weighs
    the rows of each class in the loss. With `bf16` the encoder's products run in bfloat16 while
    training; the head, and everything in evaluation, is fp32.
    """

    weights_C: torch.Tensor

    def __init__(
        self,
        encoder: PreTrainedModel,
        head: Head,
        head_input: str,
        weights_C: torch.Tensor,
        *,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.head_input = head_input
        self.bf16 = bf16
        self.register_buffer("weights_C", weights_C)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Token ids [B, L] -> `logits` [B, C] and, with labels [B], `loss`."""
        extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        with torch.autocast(
            input_ids.device.type, torch.bfloat16, enabled=self.bf16 and self.training
        ):
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **extra)
        logits_BC = self.head(self._row_vectors(states, attention_mask))
        if labels is None:
            return {"logits": logits_BC}
        rows_B = F.cross_entropy(logits_BC, labels, reduction="none")
        return {"loss": (rows_B * self.weights_C[labels]).mean(), "logits": logits_BC}

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def _row_vectors(
        self, states: Mapping[str, torch.Tensor], mask_BL: torch.Tensor
    ) -> torch.Tensor:
        if self.head_input == "pooler":
            return states["pooler_output"].float()
        hidden_BLD = states["last_hidden_state"].float()
        if self.head_input == "cls":
            return hidden_BLD[:, 0]
        mask_BL1 = mask_BL.unsqueeze(-1).float()
        return (hidden_BLD * mask_BL1).sum(1) / mask_BL1.sum(1)


def class_weights(truth: list[int], classes: int, balance: float) -> torch.Tensor:
    """Weights [C] proportional to rows ** -balance, scaled so that the mean over rows is 1."""
    counts_C = torch.bincount(torch.tensor(truth), minlength=classes).double()
    raw_C = counts_C.clamp(min=1) ** -balance
    return (raw_C * counts_C.sum() / (raw_C * counts_C).sum()).float()
