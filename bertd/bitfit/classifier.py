"""The model that learns: a transformers encoder under a head that computes as the served one does.

Shapes: B rows, L tokens of the longest row, D hidden width, C labels; ... is nothing, or L for a
head on tokens.
"""

from collections.abc import Mapping

import torch
from torch import nn
from transformers import PreTrainedModel

from bertd.bitfit import losses
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, ..., D] -> logits [B, ..., C]."""
        x = self.dropout(x)
        if self.dense is not None:
            x = self.dropout(heads.DENSE[self.kind](self.dense(x)))
        logits: torch.Tensor = self.out(x)
        return logits


class Classifier(nn.Module):
    """An encoder, what a head reads of it, the head, and the loss that the Trainer minimises.

    `head_input` is `mean` (over a row's tokens), `cls` (its first), `pooler` or `token` (each for
    itself). `weights_C` weighs the labels in the loss. With `bf16` the encoder's products run in
    bfloat16 while training; the head, and everything in evaluation, is fp32.

    A regression learns in units of its data: logits are `shift` + `scale` * what the head says, so
    that a learning rate means the same for ratings and for prices. `fold_units` puts both into the
    head.
    """

    weights_C: torch.Tensor
    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        encoder: PreTrainedModel,
        head: Head,
        head_input: str,
        weights_C: torch.Tensor,
        *,
        problem: str = "single_label",
        units: tuple[float, float] = (0.0, 1.0),
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.head_input = head_input
        self.problem = problem
        self.bf16 = bf16
        self.register_buffer("weights_C", weights_C)
        self.register_buffer("shift", torch.tensor(units[0]))
        self.register_buffer("scale", torch.tensor(units[1]))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Token ids [B, L] -> `logits` [B, ..., C] and, with labels, `loss`.

        Labels are [B] for one class a row, [B, C] for several, [B, 1] for numbers, [B, L] for tags.
        """
        extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        with torch.autocast(
            input_ids.device.type, torch.bfloat16, enabled=self.bf16 and self.training
        ):
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **extra)
        logits = self.head(self._vectors(states, attention_mask))
        loss = {}
        if labels is not None:
            if self.problem == "regression":
                labels = (labels - self.shift) / self.scale
            loss = {"loss": losses.BY_NAME[self.problem](logits, labels, self.weights_C)}
        if self.problem == "regression":
            logits = logits * self.scale + self.shift
        return loss | {"logits": logits}

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def fold_units(self) -> None:
        """Puts shift and scale into the head, so that it says what it means by itself."""
        with torch.no_grad():
            self.head.out.weight.mul_(self.scale)
            self.head.out.bias.mul_(self.scale).add_(self.shift)
        self.scale.fill_(1.0)
        self.shift.fill_(0.0)

    def _vectors(self, states: Mapping[str, torch.Tensor], mask_BL: torch.Tensor) -> torch.Tensor:
        if self.head_input == "pooler":
            return states["pooler_output"].float()
        hidden_BLD = states["last_hidden_state"].float()
        if self.head_input == "token":
            return hidden_BLD
        if self.head_input == "cls":
            return hidden_BLD[:, 0]
        mask_BL1 = mask_BL.unsqueeze(-1).float()
        return (hidden_BLD * mask_BL1).sum(1) / mask_BL1.sum(1)
