"""Triton's Python backend with ONNX Runtime: `model.py` in what `triton_server` lays out."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as backend

from benchmarks.serving.peers import onnx_classifier


class TritonPythonModel:
    """What Triton looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the model."""
        given = json.loads(args["model_config"])["parameters"]
        folder, order = (given[name]["string_value"] for name in ("folder", "order"))
        self.classifier = onnx_classifier.Classifier(Path(folder), sort=order == "sorted")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers of a batch of calls."""
        calls = [
            [text.decode() for (text,) in backend.get_input_tensor_by_name(each, "TEXT").as_numpy()]
            for each in requests
        ]
        found = iter(self.classifier.probabilities(list(itertools.chain(*calls))))
        return [
            backend.InferenceResponse(
                [
                    backend.Tensor(
                        "PROBABILITY",
                        np.fromiter(itertools.islice(found, len(call)), np.float32)[:, None],
                    )
                ]
            )
            for call in calls
        ]
