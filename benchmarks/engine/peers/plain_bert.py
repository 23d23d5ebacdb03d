"""BERT spelled out, with a mean pooled answer: what the graph tools of peers recognise and fuse.

ONNX Runtime's optimiser fuses attention, GELU and residual + LayerNorm by their patterns of
operators; it finds no attention in graphs of transformers 5. It does in these.
"""

import math

import torch
from torch import nn
from torch.nn import functional

Tensor = torch.Tensor
MASKED = -10_000.0  # the value whose pattern the optimiser knows


class PlainBert(nn.Module):
    """The weights of a transformers `BertModel`, (ids, mask) [B, S] to embeddings [B, D]."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.embeddings = bert.embeddings
        self.layers = nn.ModuleList(bert.encoder.layer)
        self.heads = bert.config.num_attention_heads

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Everything but the pooler: embeddings, layers, mean over the tokens that are real."""
        x_BSD = self._embed(input_ids)
        unseen = (1.0 - attention_mask[:, None, None, :].to(x_BSD.dtype)) * MASKED
        for layer in self.layers:
            x_BSD = self._layer(layer, x_BSD, unseen)
        kept_BS1 = attention_mask.unsqueeze(-1).to(x_BSD.dtype)
        return (x_BSD * kept_BS1).sum(1) / kept_BS1.sum(1)

    def _embed(self, input_ids: Tensor) -> Tensor:
        table = self.embeddings
        positions = table.position_ids[:, : input_ids.shape[1]]
        types = table.token_type_embeddings(torch.zeros_like(input_ids))
        summed = table.word_embeddings(input_ids) + types + table.position_embeddings(positions)
        return table.LayerNorm(summed)

    def _layer(self, layer: nn.Module, x_BSD: Tensor, unseen: Tensor) -> Tensor:
        own = layer.attention.self
        q, k, v = (self._split(part(x_BSD)) for part in (own.query, own.key, own.value))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
        context = torch.matmul(functional.softmax(scores + unseen, dim=-1), v)
        context = context.permute(0, 2, 1, 3).contiguous()
        context = context.view(x_BSD.shape[0], x_BSD.shape[1], -1)
        attended = layer.attention.output
        y_BSD = attended.LayerNorm(attended.dense(context) + x_BSD)
        wide = functional.gelu(layer.intermediate.dense(y_BSD))
        return layer.output.LayerNorm(layer.output.dense(wide) + y_BSD)

    def _split(self, x_BSD: Tensor) -> Tensor:
        batch, length, width = x_BSD.shape
        return x_BSD.view(batch, length, self.heads, width // self.heads).permute(0, 2, 1, 3)
