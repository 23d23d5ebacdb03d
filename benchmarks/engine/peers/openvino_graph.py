"""The OpenVINO graph, and its int8 form by NNCF: static scales from calibration samples."""

from collections.abc import Iterator
from pathlib import Path

import nncf
import numpy as np
import openvino
import torch
import transformers

from benchmarks.engine import rows, workloads

SAMPLES = 100


class Pooled(torch.nn.Module):
    """transformers' own model, so that OpenVINO finds the attention it knows; mean pooled."""

    def __init__(self, bert: torch.nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Ids and mask [B, S] to embeddings [B, D]."""
        found = self.bert(input_ids=input_ids, attention_mask=attention_mask)
        kept_BS1 = attention_mask.unsqueeze(-1).to(found.last_hidden_state.dtype)
        return (found.last_hidden_state * kept_BS1).sum(1) / kept_BS1.sum(1)


def prepare(folder: Path) -> None:
    """Writes `openvino/fp32.xml` and `openvino/int8.xml` beside the checkpoint."""
    home = folder / "openvino"
    home.mkdir()
    bert = transformers.AutoModel.from_pretrained(folder / "checkpoint", add_pooling_layer=False)
    ids = torch.randint(1000, 2000, (2, 16))
    graph = openvino.convert_model(
        Pooled(bert.eval()).eval(),
        example_input={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        input=[
            ("input_ids", openvino.PartialShape([-1, -1]), np.int64),
            ("attention_mask", openvino.PartialShape([-1, -1]), np.int64),
        ],
    )
    openvino.save_model(graph, home / "fp32.xml", compress_to_fp16=False)
    quantised = nncf.quantize(
        graph,
        nncf.Dataset(list(_samples())),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=SAMPLES,
    )
    openvino.save_model(quantised, home / "int8.xml", compress_to_fp16=False)


def _samples() -> Iterator[dict[str, np.ndarray]]:
    """Rows as long as CoLA's sentences, and every fourth of up to 256 tokens."""
    rng = np.random.default_rng(7)
    for number in range(SAMPLES):
        batch = workloads.draw("mixed32" if number % 4 == 0 else "cola32", rng)[0]
        ids, mask = rows.pad(batch.pick([0]))
        yield {"input_ids": ids, "attention_mask": mask}
