"""Adapter files of one's own transformers models, and back onto them."""

import doctest
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from bertd import bitfit, errors
from bertd.bitfit import freezing, models
from bertd.checkpoint import adapter_file
from tests import checkpoints

Make = Callable[..., Any]
STEPS = 20
FAMILIES = ("bert", "roberta", "distilbert", "electra", "mpnet")


@pytest.fixture(scope="module", params=FAMILIES)
def any_base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of every family."""
    folder = tmp_path_factory.mktemp(request.param)
    checkpoints.write(folder, request.param)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT checkpoint with a pooler."""
    folder = tmp_path_factory.mktemp("bert")
    checkpoints.write(folder, "bert")
    return folder


def classifier(base: Path, task: str = "SequenceClassification", labels: int = 3) -> Any:
    """The base under a fresh seeded head, as transformers makes it."""
    config = json.loads((base / "config.json").read_text())
    torch.manual_seed(3)
    auto = getattr(transformers, f"AutoModelFor{task}")
    model = auto.from_pretrained(
        base, num_labels=labels, ignore_mismatched_sizes=True, dtype=torch.float32
    )
    assert type(model).__name__.lower().startswith(config["model_type"])
    return model.eval()


def fit(model: Any, *, tagging: bool = False) -> None:
    """Twenty steps on random rows."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    for _ in range(STEPS):
        ids = torch.randint(5, 60, (4, 7), generator=generator)
        size = (4, 7) if tagging else (4,)
        labels = torch.randint(0, model.config.num_labels, size, generator=generator)
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def logits(model: Any) -> torch.Tensor:
    """What a model says about fixed rows."""
    ids = torch.arange(5, 33).reshape(4, 7)
    with torch.inference_mode():
        answer: torch.Tensor = model(input_ids=ids).logits
    return answer


@pytest.mark.parametrize("task", ["SequenceClassification", "TokenClassification"])
def test_save_and_load_round_trip(any_base: Path, task: str, tmp_path: Path) -> None:
    """Twenty steps move listed biases and head alone; the file gives equal logits again (B5)."""
    model = classifier(any_base, task)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learned = freezing.freeze(model)
    fit(model, tagging=task == "TokenClassification")
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed <= set(learned)
    names = ["x", "y", "z"]
    digest = models.save(tmp_path / "a", model, str(any_base), label_names=names)
    other = classifier(any_base, task)
    assert not torch.allclose(logits(other), logits(model), atol=1e-3)
    info = models.load(tmp_path / "a", other, str(any_base))
    assert torch.allclose(logits(other), logits(model), atol=1e-6)
    assert info.digest == digest
    assert other.config.id2label == {0: "x", 1: "y", 2: "z"}
    assert info.head.problem == ("single_label" if task.startswith("Seq") else "token")


def test_one_adapter_follows_another(bert: Path, tmp_path: Path) -> None:
    """Loading sets biases to base plus offsets, so nothing of an earlier adapter stays."""
    tuned = classifier(bert)
    freezing.freeze(tuned, "query")
    fit(tuned)
    models.save(tmp_path / "a", tuned, str(bert))
    expected = logits(tuned)
    other = classifier(bert)
    freezing.freeze(other, "output")
    fit(other)
    models.load(tmp_path / "a", other, str(bert))
    assert torch.allclose(logits(other), expected, atol=1e-6)


def test_a_state_dict_says_its_architecture(bert: Path, tmp_path: Path) -> None:
    """A state dict with the prefix of its family gives the file that its model gives."""
    model = classifier(bert)
    freezing.freeze(model)
    fit(model)
    digests = {
        models.save(tmp_path / "a", model, str(bert), label_names="xyz"),
        models.save(
            tmp_path / "b",
            model.state_dict(),
            str(bert),
            architecture="BertForSequenceClassification",
            label_names="xyz",
        ),
    }
    assert len(digests) == 1
    with pytest.raises(errors.InvalidRequest, match="'' has no head that an adapter can hold"):
        models.save(tmp_path / "c", model.state_dict(), str(bert))


def test_half_precision_halves_the_file(bert: Path, tmp_path: Path) -> None:
    """F16 is about half as large and nearly as exact; another dtype is refused."""
    model = classifier(bert)
    freezing.freeze(model)
    fit(model)
    models.save(tmp_path / "full", model, str(bert))
    models.save(tmp_path / "half", model, str(bert), dtype="F16")
    sizes = [sum(t.nbytes for t in tensors(tmp_path / n)) for n in ("full", "half")]
    assert sizes[0] == sizes[1]
    assert (tmp_path / "half").stat().st_size < (tmp_path / "full").stat().st_size
    other = classifier(bert)
    models.load(tmp_path / "half", other, str(bert))
    assert torch.allclose(logits(other), logits(model), atol=2e-2)
    with pytest.raises(errors.InvalidRequest, match="`dtype` must be one of F32, F16, got 'BF16'"):
        models.save(tmp_path / "x", model, str(bert), dtype="BF16")


def test_what_the_outputs_mean_comes_from_the_config(bert: Path, tmp_path: Path) -> None:
    """`problem_type`, `id2label` and the number of outputs decide where nothing is given."""
    model = classifier(bert)
    model.config.problem_type = "multi_label_classification"
    model.config.id2label = {0: "p", 1: "q", 2: "r"}
    models.save(tmp_path / "a", model, str(bert))
    info = adapter_file.read_info(tmp_path / "a")
    assert (info.head.problem, info.label_names) == ("multi_label", ("p", "q", "r"))
    models.save(tmp_path / "b", classifier(bert, labels=1), str(bert))
    assert adapter_file.read_info(tmp_path / "b").head.problem == "regression"
    again = classifier(bert)
    models.load(tmp_path / "a", again, str(bert))
    assert again.config.problem_type == "multi_label_classification"


def test_a_pooler_that_the_base_lacks_goes_with_the_head(tmp_path: Path) -> None:
    """A base without a pooler: the tuned model's own is written, and comes back."""
    base = tmp_path / "bare"
    made = checkpoints.write(base, "bert")
    transformers.BertModel.from_pretrained(base, add_pooling_layer=False).save_pretrained(base)
    model = classifier(base)
    freezing.freeze(model)
    with torch.no_grad():
        model.bert.pooler.dense.weight.normal_(std=0.3)
    fit(model)
    models.save(tmp_path / "a", model, str(base))
    other = classifier(base)
    models.load(tmp_path / "a", other, str(base))
    assert torch.allclose(logits(other), logits(model), atol=1e-6)
    assert made.shape.may_have_pooler


@pytest.mark.parametrize("as_dict", [False, True])
def test_a_weight_that_moved_is_refused_by_name(bert: Path, tmp_path: Path, as_dict: bool) -> None:
    """A frozen weight with another value cannot be an offset, as model or as state dict (B8)."""
    model = classifier(bert)
    freezing.freeze(model)
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[0, 0] += 0.25
    tuned = model.state_dict() if as_dict else model
    with pytest.raises(
        errors.InvalidRequest,
        match=r"only biases may move, and 'encoder\.layer\.1\.output\.dense\.weight' lies up to "
        r"0\.25 away",
    ):
        models.save(tmp_path / "a", tuned, str(bert), architecture="BertForSequenceClassification")
    assert not (tmp_path / "a").exists()


def test_another_base_is_refused(bert: Path, tmp_path: Path) -> None:
    """Neither a model of other weights nor a file of another base is taken."""
    other = tmp_path / "other"
    checkpoints.write(other, "bert", seed=9)
    models.save(tmp_path / "a", classifier(bert), str(bert))
    with pytest.raises(errors.InvalidRequest, match="only biases may move"):
        models.load(tmp_path / "a", classifier(other), str(bert))
    with pytest.raises(errors.BadArtifact, match="belongs to the base"):
        models.load(tmp_path / "a", classifier(other), str(other))


def test_a_head_of_another_kind_is_refused(bert: Path, tmp_path: Path) -> None:
    """Kind, input and number of labels must agree, and the message says what to do."""
    models.save(tmp_path / "a", classifier(bert), str(bert))
    with pytest.raises(errors.InvalidRequest, match="make the model with num_labels=3"):
        models.load(tmp_path / "a", classifier(bert, labels=2), str(bert))
    with pytest.raises(errors.InvalidRequest, match="a linear head on pooler, and 'BertForToken"):
        models.load(tmp_path / "a", classifier(bert, "TokenClassification"), str(bert))
    with pytest.raises(errors.InvalidRequest, match="'BertModel' has no head"):
        models.load(tmp_path / "a", classifier(bert).bert, str(bert))


def test_incomplete_heads_and_names_are_refused(bert: Path, tmp_path: Path) -> None:
    """A missing head tensor and too few label names are told by name."""
    state = classifier(bert).state_dict()
    architecture = "BertForSequenceClassification"
    with pytest.raises(errors.InvalidRequest, match="the head has 3 outputs, got 2 label names"):
        models.save(
            tmp_path / "a", state, str(bert), architecture=architecture, label_names=("x", "y")
        )
    del state["classifier.bias"]
    with pytest.raises(errors.InvalidRequest, match=r"lacks 'classifier\.bias' of its head"):
        models.save(tmp_path / "a", state, str(bert), architecture=architecture)


def test_offsets_of_state_dicts(bert: Path) -> None:
    """All biases of a dict are taken, with or without its prefix; head and buffers are beside."""
    base, tuned = classifier(bert).state_dict(), classifier(bert).state_dict()
    tuned["bert.pooler.dense.bias"] = tuned["bert.pooler.dense.bias"] + 0.5
    tuned["bert.embeddings.position_ids"] = torch.arange(8)
    bare = {name.removeprefix("bert."): tensor for name, tensor in tuned.items()}
    for state in (tuned, bare):
        moved = freezing.offsets(base, state)
        assert {name for name, offset in moved.items() if offset.any()} == {"pooler.dense.bias"}
        assert all(name.endswith(".bias") for name in moved)
        assert not [name for name in moved if name.startswith("classifier")]


def test_offsets_of_a_model_are_the_trainable_ones(bert: Path) -> None:
    """A model against a model gives what is trainable, and refuses a trainable weight (B4)."""
    base, tuned = classifier(bert), classifier(bert)
    freezing.freeze(tuned, "pooler")
    assert list(freezing.offsets(base, tuned)) == ["pooler.dense.bias"]
    assert freezing.trainable(tuned) == [
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    ]
    weight = tuned.bert.pooler.dense.weight.requires_grad_()
    with torch.no_grad():
        weight += 1
    with pytest.raises(errors.InvalidRequest, match=r"'pooler\.dense\.weight' lies up to 1 away"):
        freezing.offsets(base, tuned)


@pytest.mark.parametrize("name", ["bert.encoder.layer.9.output.dense.bias", "cls.bias", "odd.bias"])
def test_entries_that_the_base_lacks_are_refused(bert: Path, name: str) -> None:
    """An unknown name is an error, never silently the base's own value (B8)."""
    base = classifier(bert).state_dict()
    with pytest.raises(errors.InvalidRequest, match=r"the base must hold '.*bias' \(3,\), found"):
        freezing.offsets(base, base | {name: torch.zeros(3)})


def test_the_example_of_the_room_runs(
    base_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the room's docstring shows is what happens."""
    monkeypatch.chdir(tmp_path)
    given = {"base": str(base_directory), "fit": fit}
    example = doctest.DocTestParser().get_doctest(bitfit.__doc__ or "", given, "bitfit", None, 0)
    assert len(example.examples) == 9
    assert doctest.DocTestRunner(verbose=False).run(example, clear_globs=False).failed == 0
    assert example.globs["learned"] == freezing.trainable(example.globs["model"])


def tensors(path: Path) -> list[Any]:
    """The arrays of a file."""
    shape = checkpoints.tiny.build("bert").shape
    adapter = adapter_file.read(path, shape, True)
    return [*adapter.offsets.values(), *adapter.head.values()]
