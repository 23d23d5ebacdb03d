"""Adds the int8 graphs of ONNX Runtime to a model's folder: `prepare.py FOLDER`.

    onnx/int8.onnx     ids and mask to logits
    infinity/          the checkpoint's texts and a graph of hidden states, as infinity wants them

They are exported, fused by ONNX Runtime's own optimiser, and quantised dynamically, as in
`benchmarks.engine`; runs in the environment of that benchmark's peers.
"""

import json
import shutil
import sys
import warnings
from pathlib import Path

import torch
import transformers
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer

from benchmarks.engine.peers import onnx_graph, plain_bert

Tensor = torch.Tensor
QUANTISED = "model_quantized.onnx"  # the name that infinity looks for


class Hidden(plain_bert.PlainBert):
    """Ids and mask [B, S] to the last layer's states [B, S, D]."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeddings and layers."""
        x_BSD = self._embed(input_ids)
        unseen = (1.0 - attention_mask[:, None, None, :].to(x_BSD.dtype)) * plain_bert.MASKED
        for layer in self.layers:
            x_BSD = self._layer(layer, x_BSD, unseen)
        return x_BSD


class Classifier(Hidden):
    """Ids and mask [B, S] to logits [B, L]."""

    def __init__(self, model: transformers.BertForSequenceClassification) -> None:
        super().__init__(model.bert)
        self.pooler, self.classifier = model.bert.pooler.dense, model.classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Everything, with the head on what the pooler makes of the first token."""
        x_BSD = super().forward(input_ids, attention_mask)
        return self.classifier(torch.tanh(self.pooler(x_BSD[:, 0])))


def main() -> None:
    """Makes each part whole before it gets its name."""
    folder = Path(sys.argv[1])
    tuned = transformers.BertForSequenceClassification.from_pretrained(folder / "tuned").eval()
    begun = folder / "begun"
    for name, file, module, output in (
        ("onnx", "int8.onnx", Classifier(tuned), "logits"),
        ("infinity", QUANTISED, Hidden(tuned.bert), "last_hidden_state"),
    ):
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir()
        write(module.eval(), tuned.config, begun / file, output)
        for text in (folder / "tuned").iterdir():
            if text.suffix != ".safetensors":
                shutil.copy(text, begun)
        if name == "infinity":
            _as_encoder(begun / "config.json")
        begun.rename(folder / name)


def _as_encoder(config: Path) -> None:
    """infinity tells by the architecture whether a model embeds or classifies."""
    found = json.loads(config.read_text())
    kept = {key: value for key, value in found.items() if key not in ("id2label", "label2id")}
    config.write_text(json.dumps(kept | {"architectures": ["BertModel"]}, indent=1))


def write(module: Hidden, config: transformers.BertConfig, place: Path, output: str) -> None:
    """Writes a module as an int8 graph.

    Raises:
        RuntimeError: the optimiser left attention unfused; the comparison would be unfair.
    """
    raw, whole = place.with_name("raw.onnx"), place.with_name("fp32.onnx")
    _export(module, raw, output)
    fused = optimizer.optimize_model(
        str(raw),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        opt_level=0,
    )
    found = fused.get_fused_operator_statistics()
    if found["Attention"] != config.num_hidden_layers:
        raise RuntimeError(f"the optimiser fused {found}")
    fused.save_model_to_file(str(whole))
    quantize_dynamic(
        whole,
        place,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )
    raw.unlink()
    whole.unlink()


def _export(module: Hidden, place: Path, output: str) -> None:
    ids = torch.randint(1000, 2000, (2, 16))
    free = {0: "rows", 1: "tokens"}
    given = free if type(module) is Hidden else {0: "rows"}
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            module,
            (ids, torch.ones_like(ids)),
            place,
            input_names=list(onnx_graph.INPUTS),
            output_names=[output],
            dynamic_axes={name: free for name in onnx_graph.INPUTS} | {output: given},
            opset_version=17,
            dynamo=False,
        )


if __name__ == "__main__":
    main()
