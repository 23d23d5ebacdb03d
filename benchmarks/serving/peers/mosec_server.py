"""mosec with ONNX Runtime: `FOLDER=... ORDER=plain|sorted mosec_server.py --port PORT ...`.

The command line is mosec's own.
"""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mosec

from benchmarks.serving.peers import onnx_classifier

SORT = os.environ["ORDER"] == "sorted"


class Texts(mosec.Worker):
    """The one stage: on one core, another process that tokenises would only cost."""

    def __init__(self) -> None:
        self.classifier = onnx_classifier.Classifier(Path(os.environ["FOLDER"], "onnx"), sort=SORT)

    def forward(self, data: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answers of a batch of calls."""
        calls = [call["passages"] for call in data]
        found = iter(self.classifier.probabilities(list(itertools.chain(*calls))))
        return [{"probs": list(itertools.islice(found, len(call)))} for call in calls]


def main() -> None:
    """Serves until it is ended."""
    server = mosec.Server()
    size = onnx_classifier.SORTED_BATCH if SORT else onnx_classifier.BATCH
    server.append_worker(
        Texts,
        max_batch_size=size,
        max_wait_time=onnx_classifier.WAIT_MS,
        route="/generate",
    )
    server.run()


if __name__ == "__main__":
    main()
