"""LitServe with ONNX Runtime: `litserve_server.py FOLDER PORT TIMEOUT_S plain|sorted`."""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import litserve

from benchmarks.serving.peers import onnx_classifier


class Texts(litserve.LitAPI):
    """A batch of calls at a time."""

    def __init__(self, folder: Path, *, sort: bool) -> None:
        super().__init__(
            max_batch_size=onnx_classifier.SORTED_BATCH if sort else onnx_classifier.BATCH,
            batch_timeout=onnx_classifier.WAIT_MS / 1000,
            api_path="/generate",
        )
        self.folder, self.sort = folder, sort

    def setup(self, device: str) -> None:
        """Opens the model in the process that runs it."""
        del device
        self.classifier = onnx_classifier.Classifier(self.folder, sort=self.sort)

    def decode_request(self, request: dict[str, Any]) -> list[str]:
        """The texts of a call."""
        return request["passages"]

    def batch(self, inputs: Sequence[list[str]]) -> Sequence[list[str]]:
        """Calls as they are: `predict` joins and splits them."""
        return inputs

    def predict(self, x: Sequence[list[str]]) -> list[list[float]]:
        """Answers of a batch of calls."""
        found = iter(self.classifier.probabilities(list(itertools.chain(*x))))
        return [list(itertools.islice(found, len(call))) for call in x]

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        """One answer for each call."""
        return output

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        """The answer of a call."""
        return {"probs": output}


def main() -> None:
    """Serves until it is ended."""
    folder, port, timeout_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    api = Texts(folder / "onnx", sort=sys.argv[4] == "sorted")
    server = litserve.LitServer(api, accelerator="cpu", timeout=timeout_s, track_requests=False)
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
