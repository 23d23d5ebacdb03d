"""A web service as fastapi-bert is one: a call, a forward pass, an answer, then the next call.

`one_at_a_time.py FOLDER PORT torch|onnx`. `torch` quantises transformers' model dynamically and
tokenises with transformers, as that service does; `onnx` has ONNX Runtime's int8 graph instead.
"""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import fastapi
import pydantic
import uvicorn

Predict = Callable[[str], float]


class Passage(pydantic.BaseModel):
    """What is to be judged."""

    passage: str


def main() -> None:
    """Serves until it is ended."""
    folder, port, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    predict = quantised(folder / "tuned") if kind == "torch" else graph(folder / "onnx")
    app = fastapi.FastAPI()

    @app.post("/generate")
    async def generate(body: Passage) -> dict[str, float]:
        return {"prob": predict(body.passage)}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def quantised(checkpoint: Path) -> Predict:
    """transformers' tokenizer and model, its linear layers in dynamic int8."""
    import torch  # noqa: PLC0415  (the other kind does without)
    import transformers  # noqa: PLC0415

    torch.set_num_threads(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    with warnings.catch_warnings(action="ignore"):
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)

    @torch.inference_mode()
    def predict(passage: str) -> float:
        given = tokenizer(passage, return_tensors="pt", padding=True, truncation=True)
        return float(model(**given).logits.softmax(dim=-1)[0, 1])

    return predict


def graph(folder: Path) -> Predict:
    """The graph that the other servers have."""
    from benchmarks.serving.peers import onnx_classifier  # noqa: PLC0415  (torch does without)

    classifier = onnx_classifier.Classifier(folder, sort=False)
    return lambda passage: classifier.probabilities([passage])[0]


if __name__ == "__main__":
    main()
