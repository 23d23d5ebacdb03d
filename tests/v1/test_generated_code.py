"""The generated code is what the proto files say."""

import pathlib
import subprocess
import sys

import pytest

from bertd.v1 import admin_pb2, inference_pb2

ROOT = pathlib.Path(__file__).parents[2]
PROTOS = sorted((ROOT / "proto" / "bertd" / "v1").glob("*.proto"))


def test_regenerating_changes_nothing(tmp_path):
    """Whoever edits a proto file also commits the code made from it."""
    pytest.importorskip("grpc_tools")
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "proto"), *outputs]
    subprocess.run([*command, *map(str, PROTOS)], check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "bertd" / "v1").iterdir()}
    committed = {path.name: path.read_text() for path in (ROOT / "bertd" / "v1").glob("*_pb2*.py*")}
    assert made == committed


@pytest.mark.parametrize(
    ("module", "service", "methods"),
    [
        (inference_pb2, "Inference", ["Classify", "Embed", "Tag", "Stream"]),
        (admin_pb2, "Admin", ["Apply", "Diff", "Get", "List", "Delete", "Watch"]),
    ],
)
def test_the_services_are_the_documented_ones(module, service, methods):
    """The package is versioned, and its methods are a contract (D14)."""
    found = module.DESCRIPTOR.services_by_name[service]
    assert found.full_name == f"bertd.v1.{service}"
    assert [each.name for each in found.methods] == methods


def test_every_request_of_inference_begins_alike():
    """A client, or a proxy, finds model, adapter and inputs in the same fields everywhere."""
    for method in inference_pb2.DESCRIPTOR.services_by_name["Inference"].methods:
        if method.name == "Stream":  # its items are requests of the others
            continue
        found = [(field.number, field.name) for field in method.input_type.fields][:4]
        assert found == [(1, "model"), (2, "adapter"), (3, "inputs"), (4, "options")]
