"""Triton, the server within nvidia-pytriton: `triton_server.py FOLDER PORT plain|sorted`.

Makes the repository of its one model, puts the backend's stub for this Python where the server
looks for it, and becomes the server.
"""

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytriton

from benchmarks.serving.peers import onnx_classifier

MODEL = Path(__file__).with_name("triton_model.py")
LARGEST = 64  # rows; a call of 16 texts must fit
PATIENCE_US = 100_000_000  # without a default, Triton overlooks what a call says of its timeout
# An idle instance starts at once, and gathers calls while it is busy: no delay is the best one.
CONFIG = """
name: "texts"
backend: "python"
max_batch_size: {largest}
input [ {{ name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] }} ]
output [ {{ name: "PROBABILITY" data_type: TYPE_FP32 dims: [ 1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
dynamic_batching {{
  preferred_batch_size: [ {batch} ]
  max_queue_delay_microseconds: 0
  default_queue_policy {{
    timeout_action: REJECT
    default_timeout_microseconds: {patience_us}
    allow_timeout_override: true
  }}
}}
parameters {{ key: "folder" value: {{ string_value: "{folder}" }} }}
parameters {{ key: "order" value: {{ string_value: "{order}" }} }}
"""


def main() -> None:
    """Replaces this process by the server."""
    folder, port, order = sys.argv[1:]
    home = Path(tempfile.mkdtemp(prefix="bertd-triton-"))
    place = home / "models" / "texts"
    (place / "1").mkdir(parents=True)
    packages = Path(sysconfig.get_path("purelib"))
    paths = [str(packages), str(Path.cwd())]  # the stub takes no PYTHONPATH
    prelude = f"import sys\nsys.path[:0] = {paths!r}\n"
    (place / "1" / "model.py").write_text(prelude + MODEL.read_text())
    text = CONFIG.format(
        largest=LARGEST,
        batch=onnx_classifier.SORTED_BATCH if order == "sorted" else onnx_classifier.BATCH,
        patience_us=PATIENCE_US,
        folder=Path(folder).absolute() / "onnx",
        order=order,
    )
    (place / "config.pbtxt").write_text(text)
    command = [str(_server(home)), "--model-repository", str(home / "models")]
    command += ["--backend-directory", str(home / "backends"), "--allow-http", "false"]
    command += ["--allow-metrics", "false", "--grpc-address", "127.0.0.1", "--grpc-port", port]
    libraries = {"LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs")}  # the stub has moved
    os.execve(command[0], command, os.environ | libraries)


def _server(home: Path) -> Path:
    """Lays the Python backend out with its stub; returns where the server is."""
    bundled = Path(pytriton.__file__).parent / "tritonserver"
    stubs = bundled / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    backend = home / "backends" / "python"
    shutil.copytree(bundled / "backends" / "python", backend)
    shutil.copy(stubs / "triton_python_backend_stub", backend)
    return bundled / "bin" / "tritonserver"


if __name__ == "__main__":
    main()
