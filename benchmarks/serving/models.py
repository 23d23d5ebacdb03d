"""The model that everybody serves: a BERT whose biases and head were tuned, in each one's form.

`python -m benchmarks.serving.models BASE FOLDER` makes, once for each model:

    tuned/               a checkpoint of transformers' BertForSequenceClassification
    adapter.safetensors  the same as an adapter of the base, for bertd
    answers.npz          its answers to the first texts in fp32, by transformers

The tuning is random, from a seed: speed does not depend on it, and answers are compared all the
same. `peers.prepare` adds the graphs of ONNX Runtime.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

from benchmarks import daemon
from benchmarks.engine.peers.prepare import TOKENIZER
from benchmarks.serving import texts

LABELS = {0: "unacceptable", 1: "acceptable"}
CHECKED_TEXTS = 64
OFFSET = 0.02  # standard deviation of what tuning added to a bias
SPREAD = 4.0  # of the head's weights, so that probabilities differ from text to text


def main() -> None:
    """Makes the folder whole before it gets its name."""
    base, folder = Path(sys.argv[1]), Path(sys.argv[2])
    begun = folder.with_name(f"{folder.name}.begun")
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir(parents=True)
    model = tune(base)
    model.save_pretrained(begun / "tuned")
    for name in TOKENIZER:
        shutil.copy(base / name, begun / "tuned" / name)
    np.savez(begun / "answers.npz", **answers(model, base / "tokenizer.json"))
    command = [daemon.BERTD, "adapter", "import", begun / "tuned", "--base", base]
    command += ["--out", begun / "adapter.safetensors", "--format", "huggingface"]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    begun.rename(folder)


def tune(base: Path) -> transformers.BertForSequenceClassification:
    """The base with a head, and with other biases than before."""
    torch.manual_seed(1)
    model = transformers.BertForSequenceClassification.from_pretrained(base, id2label=LABELS)
    for name, value in model.bert.named_parameters():
        if name.endswith(".bias") and "pooler" not in name:
            value.data += torch.randn_like(value) * OFFSET
    model.classifier.weight.data.normal_(0.0, SPREAD * model.config.hidden_size**-0.5)
    return model.eval()


@torch.inference_mode()
def answers(
    model: transformers.BertForSequenceClassification, tokenizer: Path
) -> dict[str, np.ndarray]:
    """Of the first texts: probability of the second label [N], mean vectors [N, D], unit length."""
    made = texts.make(tokenizer).rows
    probabilities, embeddings = [], []
    for place in range(CHECKED_TEXTS):
        found = model.bert(torch.from_numpy(made.pick([place]).ids_T.astype(np.int64))[None])
        probabilities.append(model.classifier(found.pooler_output).softmax(-1)[0, 1].item())
        mean = found.last_hidden_state[0].mean(0)
        embeddings.append((mean / mean.norm()).numpy())
    return {"probabilities": np.array(probabilities), "embeddings": np.stack(embeddings)}


if __name__ == "__main__":
    main()
