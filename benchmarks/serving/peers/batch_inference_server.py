"""batch-inference behind a web service, with ONNX Runtime: `batch_inference_server.py FOLDER PORT`.

`ModelHost` batches within the process that serves; `RemoteModelHost` would add its own gRPC hop to
every call, and pickles.
"""

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import fastapi
import pydantic
import uvicorn
from batch_inference import aio
from batch_inference.batcher import BucketSeqBatcher

from benchmarks.serving.peers import onnx_classifier

BUCKETS = (8, 10, 12, 16, 24)  # tokens: a call of the model for each bucket that is not empty


class Passages(pydantic.BaseModel):
    """What is to be judged."""

    passages: list[str]


class Model:
    """What `ModelHost` calls with the padded rows of a bucket."""

    def __init__(self, classifier: onnx_classifier.Classifier) -> None:
        self.classifier = classifier

    def predict_batch(
        self, ids: onnx_classifier.Ints, mask: onnx_classifier.Ints
    ) -> onnx_classifier.Floats:
        """Probabilities [B] of ids and mask [B, S]."""
        return self.classifier.run(ids, mask)


def main() -> None:
    """Serves until it is ended."""
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    classifier = onnx_classifier.Classifier(folder / "onnx", sort=False)
    batcher = BucketSeqBatcher(padding_tokens=[0, 0], buckets=list(BUCKETS))
    host = aio.ModelHost(
        model_obj=Model(classifier),
        batcher=batcher,
        max_batch_size=onnx_classifier.SORTED_BATCH,
        wait_ms=onnx_classifier.WAIT_MS,
        wait_n=onnx_classifier.SORTED_BATCH,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        async with host:
            yield

    app = fastapi.FastAPI(lifespan=lifespan)

    @app.post("/generate")
    async def generate(body: Passages) -> dict[str, list[float]]:
        encoded = classifier.tokenizer.encode_batch_fast(body.passages)
        found = await host.predict(*onnx_classifier.pad([each.ids for each in encoded]))
        return {"probs": found.tolist()}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
