"""Who serves: names, environments, how each is started and asked."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving import calls

ENVIRONMENTS = Path(".venv-bench-serving")
PEERS = "benchmarks.serving.peers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a server finds its model and is found itself."""

    folder: Path
    port: int
    deadline_s: float  # of the calls under overload, for servers that drop late work


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A server of somebody else."""

    environment: str
    packages: tuple[str, ...]  # whose versions are worth telling
    wire: calls.Wire
    command: Callable[[Place], tuple[str, ...]]  # behind the environment's `bin/`
    variables: Callable[[Place], Mapping[str, str]] = field(default=lambda _: {})

    @property
    def takes_many(self) -> bool:
        """Whether a call may hold several texts."""
        return self.wire is not calls.PASSAGE


def _module(name: str, *arguments: str) -> Callable[[Place], tuple[str, ...]]:
    def command(place: Place) -> tuple[str, ...]:
        texts = {"{timeout}": f"{place.deadline_s:g}"}
        own = (texts.get(each, each) for each in arguments)
        return ("python", "-m", f"{PEERS}.{name}", str(place.folder), str(place.port), *own)

    return command


def _triton(order: str) -> Peer:
    return Peer(
        environment="triton",
        packages=("nvidia-pytriton", "onnxruntime"),
        wire=calls.KSERVE,
        command=_module("triton_server", order),
    )


def _mosec(order: str) -> Peer:
    return Peer(
        environment="mosec",
        packages=("mosec", "onnxruntime"),
        wire=calls.PASSAGES,
        command=lambda place: (
            *("python", "-m", f"{PEERS}.mosec_server", "--address", "127.0.0.1"),
            *("--port", str(place.port), "--log-level", "warning", "--capacity", "100000"),
            *("--timeout", str(round(1000 * place.deadline_s))),
        ),
        variables=lambda place: {"FOLDER": str(place.folder), "ORDER": order},
    )


BERTD, ENGINE = "bertd", "engine"  # the daemon, and its engine alone
PEERS_BY_NAME = {
    "infinity-onnx-embed": Peer(
        environment="infinity",
        packages=("infinity-emb", "optimum-onnx", "onnxruntime"),
        wire=calls.INFINITY_EMBED,
        command=_module("infinity_server", "onnx"),
    ),
    "infinity-torch-classify": Peer(
        environment="infinity",
        packages=("infinity-emb", "torch"),
        wire=calls.INFINITY_CLASSIFY,
        command=_module("infinity_server", "torch"),
    ),
    "triton": _triton("plain"),
    "triton-sorted": _triton("sorted"),
    "batch-inference": Peer(
        environment="batch-inference",
        packages=("batch-inference", "fastapi", "uvicorn", "onnxruntime"),
        wire=calls.PASSAGES,
        command=_module("batch_inference_server"),
    ),
    "mosec": _mosec("plain"),
    "mosec-sorted": _mosec("sorted"),
    "litserve": Peer(
        environment="litserve",
        packages=("litserve", "onnxruntime"),
        wire=calls.PASSAGES,
        command=_module("litserve_server", "{timeout}", "plain"),
    ),
    "fastapi-torch": Peer(
        environment="fastapi",
        packages=("fastapi", "uvicorn", "torch", "transformers"),
        wire=calls.PASSAGE,
        command=_module("one_at_a_time", "torch"),
    ),
    "fastapi-onnx": Peer(
        environment="fastapi",
        packages=("fastapi", "uvicorn", "onnxruntime"),
        wire=calls.PASSAGE,
        command=_module("one_at_a_time", "onnx"),
    ),
}
NAMES = (BERTD, *PEERS_BY_NAME)
# Of two servers that do the same, mosec was the faster one in every look.
USUAL = tuple(name for name in NAMES if name != "litserve")
FAMILIES = {  # whom the summary compares with: the fastest of each
    "infinity": ("infinity-onnx-embed", "infinity-torch-classify"),
    "triton": ("triton", "triton-sorted"),
    "one_at_a_time": ("fastapi-torch",),
}


def wire(name: str) -> calls.Wire:
    """How a contender is asked."""
    return calls.BERTD if name == BERTD else PEERS_BY_NAME[name].wire


def takes_many(name: str) -> bool:
    """Whether a call may hold several texts."""
    return name == BERTD or PEERS_BY_NAME[name].takes_many


def command(peer: Peer, place: Place) -> list[str]:
    """What starts a peer, in its environment."""
    program, *arguments = peer.command(place)
    return [str(ENVIRONMENTS / peer.environment / "bin" / program), *arguments]


def versions(name: str) -> dict[str, str]:
    """Versions of the packages that matter, as the contender's own interpreter finds them."""
    if name == BERTD:
        python, packages = Path(sys.executable), ("grpcio", "uvloop", "tokenizers")
    else:
        peer = PEERS_BY_NAME[name]
        python = ENVIRONMENTS / peer.environment / "bin" / "python"
        packages = peer.packages
    code = (
        "import importlib.metadata as m, json, sys;"
        "print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
    )
    found = subprocess.run(
        [str(python), "-c", code, *packages], check=True, capture_output=True, text=True
    )
    return dict(json.loads(found.stdout))
