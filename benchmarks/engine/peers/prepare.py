"""Writes everything the peers need of one model, once: `prepare.py MODEL FOLDER`.

`python -m benchmarks.engine` runs it in the peers' environment when the folder is not there.
"""

import importlib
import shutil
import sys
import traceback
from pathlib import Path

import torch
import transformers

from benchmarks.engine import shapes

CONVERTERS = ("onnx_graph", "openvino_graph", "ctranslate2_engine")
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt",
)  # fmt: skip


def main() -> None:
    """Makes the folder whole before it gets its name."""
    model, folder, minilm = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    begun = folder.with_name(f"{folder.name}.begun")
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir(parents=True)
    if model == "minilm":
        shutil.copytree(minilm, begun / "checkpoint")
    else:
        write_random(model, begun / "checkpoint", minilm)
    for name in CONVERTERS:
        try:
            importlib.import_module(f"benchmarks.engine.peers.{name}").prepare(begun)
        except Exception:  # the others can be measured all the same; the report says who is missing
            traceback.print_exc()
    begun.rename(folder)


def write_random(model: str, place: Path, minilm: Path) -> None:
    """A checkpoint of a shape with seeded random weights and MiniLM's tokenizer (BERT's own)."""
    torch.manual_seed(0)
    shape = shapes.SHAPES[model]
    config = transformers.BertConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.ffn,
        position_embedding_type="absolute",  # CTranslate2 asks; transformers 5 no longer says
    )
    bert = transformers.BertModel(config, add_pooling_layer=False)
    for name, value in bert.named_parameters():
        _draw(name, value.data, shape.hidden)
    bert.save_pretrained(place)
    for name in TOKENIZER:
        shutil.copy(minilm / name, place / name)


def _draw(name: str, value: torch.Tensor, hidden: int) -> None:
    """Weights that keep activations near unit size, attention neither flat nor one-hot."""
    if "LayerNorm.weight" in name:
        value.normal_(1.0, 0.2)
    elif name.endswith("bias"):
        value.normal_(0.0, 0.1)
    elif "embeddings" in name:
        value.normal_(0.0, 0.05)
    else:
        sharp = 1.3 if "query" in name or "key" in name else 1.0
        value.normal_(0.0, sharp * hidden**-0.5)


if __name__ == "__main__":
    main()
