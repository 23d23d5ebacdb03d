"""Models, engines and what engines are called."""

import re
from dataclasses import dataclass

MODELS = ("bert-base", "bert-large", "minilm")
PRECISIONS = ("int8", "bf16", "fp32")
REFERENCE = "transformers-fp32"  # what everybody's answers are compared with

ENGINES = (
    "bertd-int8",
    "bertd-int8-1-adapters",
    "bertd-int8-64-adapters",
    "bertd-bf16",
    "bertd-bf16-64-adapters",
    "bertd-fp32",
    "bertd-fp32-64-adapters",
    "openvino-int8",
    "openvino-int8-padded",
    "openvino-bf16",
    "openvino-fp32",
    "onnxruntime-int8",
    "onnxruntime-fp32",
    "ctranslate2-int8",
    "ctranslate2-fp32",
    "torchao-dynamic-int8",
    "transformers-bf16",
    "transformers-fp32",
)
# A model of this size takes gigabytes in every process and half a minute for a batch in fp32, so
# fewer engines run it: together they fit into 24 GB.
LARGE_ENGINES = (
    "bertd-int8",
    "bertd-int8-64-adapters",
    "bertd-bf16-64-adapters",
    "openvino-int8",
    "openvino-bf16",
    "onnxruntime-int8",
    "ctranslate2-int8",
    "transformers-fp32",
)
BERTD = re.compile(r"bertd-(int8|bf16|fp32)(?:-(\d+)-adapters)?")
PEER = re.compile(r"(openvino|onnxruntime|ctranslate2|transformers)-(int8|bf16|fp32)(-padded)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """An engine's name, taken apart."""

    library: str
    precision: str
    adapters: int = 0  # of which every row of a batch has another one
    padded: bool = False  # held to one batch padded to its longest row

    @property
    def is_peer(self) -> bool:
        """Whether it is somebody else's."""
        return self.library != "bertd"


def parse(engine: str) -> Name:
    """Takes a name apart.

    Raises:
        ValueError: no engine has this name.
    """
    if engine == "torchao-dynamic-int8":
        return Name(library="torchao", precision="int8")
    if own := BERTD.fullmatch(engine):
        return Name(library="bertd", precision=own[1], adapters=int(own[2] or 0))
    if peer := PEER.fullmatch(engine):
        return Name(library=peer[1], precision=peer[2], padded=peer[3] is not None)
    raise ValueError(f"no engine is called '{engine}'; there are {', '.join(ENGINES)}")


def reference(engine: str) -> str:
    """Whose answers an engine's are compared with: adapters change them."""
    adapters = parse(engine).adapters
    return f"bertd-fp32-{adapters}-adapters" if adapters else REFERENCE


def engines(model: str) -> tuple[str, ...]:
    """Who runs a model unless told otherwise."""
    return LARGE_ENGINES if model == "bert-large" else ENGINES
