"""The quick start's manifest, asked in every way that a user may ask."""

import importlib
import json
import subprocess
import sys
import urllib.request
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from bertd.client import sync
from tests.e2e import conftest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).with_name("buf")
EXPECTED = {
    ("sst2", "This movie sucks ;("): "negative",
    ("sst2", "Loved it!!!"): "positive",
    ("trec", "Who wrote Hamlet?"): "human",
    ("trec", "How far is the moon?"): "number",
    ("snips", "play some jazz"): "PlayMusic",
    ("snips", "will it rain in Oslo tomorrow?"): "GetWeather",
}


def test_predict_prints_sensible_labels(quickstart: conftest.Daemon) -> None:
    """`bertd predict` answers as the README says; `-o json` prints one object per input."""
    for (adapter, text), label in EXPECTED.items():
        done = quickstart.cli("predict", f"quickstart/{adapter}", text, "-o", "json")
        (answer,) = conftest.json_lines(done.stdout)
        assert answer["label"] == label
        assert 0.5 < float(str(answer["score"])) <= 1
    both = quickstart.cli("predict", "quickstart/sst2", "This movie sucks ;(", "Loved it!!!")
    assert [line.split()[-2] for line in both.stdout.splitlines()[1:]] == ["negative", "positive"]


def test_what_get_prints_may_be_applied_again(quickstart: conftest.Daemon) -> None:
    """`bertd get models -o yaml` piped into `apply` prints `unchanged` (checklist 17)."""
    printed = quickstart.cli("get", "models", "-o", "yaml").stdout
    assert "maxTokens: 4096" in printed
    done = quickstart.cli("apply", "-", stdin=printed)
    assert (done.returncode, done.stdout) == (0, "model/quickstart unchanged\n")
    assert quickstart.cli("diff", str(conftest.QUICKSTART)).returncode == 0


def test_one_batch_holds_several_adapters(quickstart: conftest.Daemon) -> None:
    """A concurrent stream over four adapters is computed in mixed batches, and metrics show it."""
    with sync.Client(quickstart.data) as client, futures.ThreadPoolExecutor(16) as pool:

        def ask(adapter: str, text: str) -> str | None:
            return client.classify([text], model="quickstart", adapter=adapter)[0].label

        asked = list(EXPECTED) * 20
        answers = list(pool.map(lambda question: ask(*question), asked))
    assert answers == [EXPECTED[question] for question in asked]
    with urllib.request.urlopen(quickstart.metrics) as page:
        lines = page.read().decode().splitlines()
    values = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"
    }
    batches = values['bertd_batch_adapters_count{model="quickstart"}']
    assert values['bertd_batch_adapters_sum{model="quickstart"}'] > 1.2 * batches
    assert values['bertd_adapters{model="quickstart"}'] == 4
    assert values['bertd_adapter_cache_adapters{model="quickstart"}'] == 4
    assert values["bertd_manifest_last_load_success"] == 1


def test_plain_stubs_from_the_proto_files(quickstart: conftest.Daemon, tmp_path: Path) -> None:
    """Stubs generated from `proto/` by anybody, without bertd's package, get the same answer."""
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "proto")),
            *(f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"),
            str(ROOT / "proto/bertd/v1/inference.proto"),
        ],
        check=True,
    )
    for folder in ("bertd", "bertd/v1"):  # else the installed package would be found first
        (tmp_path / folder / "__init__.py").touch()
    program = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import grpc
from bertd.v1 import inference_pb2, inference_pb2_grpc
assert inference_pb2.__file__.startswith({str(tmp_path)!r})
stub = inference_pb2_grpc.InferenceStub(grpc.insecure_channel({quickstart.data!r}))
request = inference_pb2.ClassifyRequest(model="quickstart", adapter="trec")
request.inputs.add().text = "Who wrote Hamlet?"
print(stub.Classify(request, timeout=10).results[0].labels[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.stdout, done.stderr) == ("human\n", "")


def test_buf_curl_by_reflection(quickstart: conftest.Daemon) -> None:
    """`buf curl`, knowing no proto file, lists the services and classifies by reflection."""

    def curl(*arguments: str) -> str:
        done = subprocess.run(
            [
                *(str(BUF), "curl", "--protocol", "grpc", "--http2-prior-knowledge"),
                *("--unix-socket", quickstart.socket, *arguments),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    services = curl("--list-services", "http://localhost")
    assert "bertd.v1.Inference" in services
    assert "bertd.v1.Admin" in services
    question = {
        "model": "quickstart",
        "adapter": "trec",
        "inputs": [{"text": "Who wrote Hamlet?"}],
    }
    reply = json.loads(
        curl("-d", json.dumps(question), "http://localhost/bertd.v1.Inference/Classify")
    )
    assert reply["results"][0]["labels"] == ["human"]
    assert reply["served"]["adapter"] == "trec"


def test_the_data_port_describes_itself_only_when_asked(quickstart: conftest.Daemon) -> None:
    """Without `--reflection` the data port has neither reflection nor Admin (checklist 63)."""
    reflection = importlib.import_module(
        "grpc_reflection.v1alpha.proto_reflection_descriptor_database"
    )
    with grpc.insecure_channel(quickstart.data) as channel:
        with pytest.raises(grpc.RpcError) as refusal:
            reflection.ProtoReflectionDescriptorDatabase(channel).get_services()
        assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as refusal:
            channel.unary_unary("/bertd.v1.Admin/List")(b"", timeout=5)
        assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_embeddings_of_the_base(quickstart: conftest.Daemon) -> None:
    """Embed gives unit vectors in which like is near like."""
    with sync.Client(quickstart.data) as client:
        a, b, c = client.embed(
            ["A man is eating food.", "Someone is having a meal.", "The rocket left its pad."],
            model="quickstart",
        )
    assert a @ a == pytest.approx(1, abs=1e-5)
    assert a @ b > 0.4 > a @ c


def test_the_files_of_a_base_come_from_its_source_alone(quickstart: conftest.Daemon) -> None:
    """Nothing was asked of any network: the model came out of a package (F7)."""
    assert "hub" not in quickstart.log
    assert "http" not in quickstart.log.replace(quickstart.metrics, "")
