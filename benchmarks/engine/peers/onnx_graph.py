"""The ONNX graph: exported, fused by ONNX Runtime's own optimiser, then quantised."""

import warnings
from pathlib import Path

import torch
import transformers
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer

from benchmarks.engine.peers import plain_bert

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "embedding"


def prepare(folder: Path) -> None:
    """Writes `onnx/fp32.onnx` and `onnx/int8.onnx` beside the checkpoint.

    Raises:
        RuntimeError: the optimiser left attention unfused; the comparison would be unfair.
    """
    home = folder / "onnx"
    home.mkdir()
    bert = transformers.AutoModel.from_pretrained(folder / "checkpoint", add_pooling_layer=False)
    raw = home / "raw.onnx"
    _export(bert.eval(), raw)
    config = bert.config
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
    fused.save_model_to_file(str(home / "fp32.onnx"))
    quantize_dynamic(
        home / "fp32.onnx",
        home / "int8.onnx",
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )
    raw.unlink()


def _export(bert: torch.nn.Module, place: Path) -> None:
    ids = torch.randint(1000, 2000, (2, 16))
    free = {0: "rows", 1: "tokens"}
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            plain_bert.PlainBert(bert).eval(),
            (ids, torch.ones_like(ids)),
            place,
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_axes={name: free for name in INPUTS} | {OUTPUT: {0: "rows"}},
            opset_version=17,
            dynamo=False,
        )
