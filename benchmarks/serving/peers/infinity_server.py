"""infinity: `infinity_server.py FOLDER PORT onnx|torch`.

`onnx` embeds by its optimum engine and the graph of `prepare`: its classifier on that engine would
take one text after the other. `torch` classifies; its int8 is torch's dynamic one.
"""

import os
import sys
from pathlib import Path

KINDS = {
    "onnx": (
        *("infinity", "--engine", "optimum", "--pooling-method", "mean"),
        "--onnx-disable-optimize",  # the graph is fused already
    ),
    "torch": ("tuned", "--engine", "torch", "--dtype", "int8", "--no-bettertransformer"),
}


def main() -> None:
    """Replaces this process by the server, in the model's folder: it finds no graph by a path."""
    folder, port, kind = sys.argv[1:]
    name, *options = KINDS[kind]
    program = Path(sys.executable).with_name("infinity_emb").absolute()
    where = ("--host", "127.0.0.1", "--port", port, "--log-level", "warning")
    os.chdir(Path(folder, name))
    model = ("--model-id", ".", "--served-model-name", "texts", "--device", "cpu")
    os.execv(program, [str(program), "v2", *model, *where, *options])


if __name__ == "__main__":
    main()
