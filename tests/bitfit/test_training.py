"""A training run from data file to adapter file, on a tiny seeded base."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from bertd import errors, families
from bertd.bitfit import bases, classifier, loop, problems, rows, saving, tables, training
from bertd.bitfit import config as bitfit_config
from bertd.bitfit.config import TrainConfig
from bertd.checkpoint import adapter_file

Config = Callable[..., TrainConfig]


def read(config: TrainConfig) -> adapter_file.Adapter:
    """The written file, proved against the base."""
    base = bases.load(config.base, config.max_length)
    return adapter_file.read(config.output, base.shape, base.has_pooler)


def test_two_runs_are_bit_identical(config: Config, tmp_path: Path) -> None:
    """The same config and seed write the same bytes; another seed writes others (F4)."""
    first, again, other = (
        training.train(config(output=tmp_path / name, seed=seed), date="2026-01-01")
        for name, seed in (("a", 42), ("b", 42), ("c", 43))
    )
    assert first.output.read_bytes() == again.output.read_bytes()
    assert first.digest == again.digest
    assert first.history == again.history
    assert first.digest != other.digest


def test_only_listed_biases_and_the_head_change(config: Config) -> None:
    """After 20 steps every other parameter is bitwise what it was (B5)."""
    asked = config(biases=("query", "output"), epochs=4)
    base = bases.load(asked.base, asked.max_length)
    encoder = bases.encoder(base, None, pooler=False)
    result = training.train(asked)
    moved = {
        families.bias_names(base.shape)[name]: torch.tensor(array)
        for name, array in read(asked).offsets.items()
    }
    assert set(moved) == {
        name
        for name, _ in encoder.named_parameters()
        if name.endswith("bias") and ("query" in name or "output" in name)
    }
    assert all(offset.any() for offset in moved.values())
    assert {name for name in result.trainable if name.startswith("head.")} == {
        "head.out.weight",
        "head.out.bias",
    }


def test_frozen_parameters_stay_bitwise(config: Config) -> None:
    """The loop itself leaves each frozen parameter as it was, and moves each trainable one (B5)."""
    asked = config(biases=("value",), epochs=4, dropout=0.3)
    model, learn, base = prepared(asked)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loop.fit(model, learn, lambda: 0.5, base.pad, asked)
    trainable = set(model.trainable())
    assert {n.rpartition(".layer.")[2] for n in trainable} == {
        "0.attention.self.value.bias",
        "1.attention.self.value.bias",
        "head.out.weight",
        "head.out.bias",
    }
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == trainable


def test_round_trip_through_the_file_gives_equal_logits(config: Config) -> None:
    """A fresh encoder with the file's numbers answers bit for bit as the tuned one (B5)."""
    asked = config()
    model, learn, base = prepared(asked)
    start = {name: p.detach().clone() for name, p in model.encoder.named_parameters()}
    loop.fit(model, learn, lambda: 0.5, base.pad, asked)
    saving.save(
        asked.output, model, saving.round_to_file(model, start), base, ("negative", "positive"), {}
    )
    fresh, _, _ = prepared(asked)
    apply(read(asked), fresh, base)
    batch = base.pad([learn[row] for row in range(8)])
    with torch.inference_mode():
        tuned, again = (m.eval()(**batch)["logits"] for m in (model, fresh))
    assert torch.equal(tuned, again)


def test_recorded_values_are_those_of_the_file(config: Config, data: Path) -> None:
    """What the record says is what an encoder with the file's numbers measures (B5)."""
    asked = config(epochs=12)
    result = training.train(asked)
    model, _, base = prepared(asked)
    apply(read(asked), model, base)
    table = tables.read(data, asked.columns)
    problem = problems.BY_NAME["single_label"]
    examples = rows.Examples(
        problem,
        result.label_names,
        rows.encode(base.tokenizer, table),
        problem.truth(table, result.label_names),
    )
    assert loop.judge(model, examples, base.pad) == result.evaluation
    assert result.evaluation is not None
    assert result.evaluation["accuracy"] > 0.8


def test_best_epoch_is_restored(config: Config) -> None:
    """The model ends with the parameters of its best epoch, the first where two are equal (F4)."""
    asked = config(epochs=4)
    model, learn, base = prepared(asked)
    values = iter([0.1, 0.7, 0.7, 0.3])
    seen: list[dict[str, torch.Tensor]] = []

    def value() -> float:
        seen.append({name: p.detach().clone() for name, p in model.trainable().items()})
        return next(values)

    best = loop.fit(model, learn, value, base.pad, asked)
    assert best.history == [0.1, 0.7, 0.7, 0.3]
    assert best.epoch == 2
    assert all(torch.equal(p, seen[1][name]) for name, p in model.trainable().items())
    assert not torch.equal(seen[1]["head.out.weight"], seen[3]["head.out.weight"])


def test_the_file_carries_labels_head_and_record(config: Config, data: Path) -> None:
    """Head, labels, digests and the record are saved with the model (F4)."""
    asked = config(metric="matthews", labels=("positive", "negative"))
    result = training.train(asked, date="2026-11-20")
    info = adapter_file.read_info(asked.output)
    base = bases.load(asked.base, asked.max_length)
    adapter_file.check_base(info, base.digest, base.tokenizer_digest)
    assert info.label_names == ("positive", "negative")
    assert (info.head.kind, info.head.input) == ("linear", "mean")
    assert info.digest == result.digest
    record = json.loads(json.dumps(dict(info.training)))
    assert record["data"]["file"] == "train.jsonl"
    assert record["data"]["sha256"] == tables.read(data, asked.columns).digest
    assert record["evaluation"] == record["data"] | dict(result.evaluation or {})
    assert record["metric"] == "matthews"
    assert record["validation"]["rows"] == 10
    assert (record["seed"], record["epochs"], record["date"]) == (42, 4, "2026-11-20")
    assert set(record["versions"]) == {"bertd", "torch", "transformers"}


def test_biases_without_effect_are_left_out(config: Config) -> None:
    """Key biases cancel in the softmax, and no head reads the pooler: neither is in the file."""
    asked = config()
    training.train(asked)
    names = set(read(asked).offsets)
    assert not {name for name in names if ".key." in name or name.startswith("pooler")}
    assert len(names) == 2 * 7 + 1


@pytest.mark.parametrize(
    ("kind", "source"), [("linear", "pooler"), ("linear", "cls"), ("dense-gelu", "mean")]
)
def test_other_heads_learn_too(config: Config, kind: str, source: str) -> None:
    """Every input and a dense kind train, and the pooler's bias is learned where it is read."""
    asked = config(head_kind=kind, head_input=source, epochs=1, evaluation=None)
    result = training.train(asked)
    adapter = read(asked)
    assert ("pooler.bias" in adapter.offsets) == (source == "pooler")
    assert ("dense.weight" in adapter.head) == (kind != "linear")
    assert result.evaluation is None
    assert adapter.info.training["evaluation"] is None


def test_bf16_learns_and_judges_in_fp32(config: Config) -> None:
    """Training in bf16 writes fp32-rounded-to-F16 numbers and is as repeatable."""
    asked = config(precision="bf16")
    first, again = training.train(asked), training.train(asked)
    assert first.digest == again.digest
    assert first.digest != training.train(config()).digest


def test_evaluation_is_read_when_training_is_over(config: Config, tmp_path: Path) -> None:
    """What the evaluation file holds before the last epoch ends is never looked at."""
    path = tmp_path / "eval.jsonl"
    path.write_text("not yet")

    def report(now: bitfit_config.Progress) -> None:
        if now.step == now.steps and now.validation is not None:
            path.write_text('{"text": "good", "label": "positive"}')

    result = training.train(config(evaluation=path), report=report)
    assert result.evaluation is not None
    assert result.record["evaluation"] == {
        "file": "eval.jsonl",
        "sha256": tables.read(path, tables.Columns(text="text", label="label")).digest,
        "rows": 1,
        **result.evaluation,
    }


def test_progress_is_told(config: Config) -> None:
    """Every step and every epoch is reported, with the metric after an epoch only."""
    told: list[bitfit_config.Progress] = []
    result = training.train(config(epochs=2), report=told.append)
    steps = told[0].steps
    assert [now.step for now in told if now.validation is None] == list(range(1, steps + 1))
    assert [now.validation for now in told if now.validation is not None] == list(result.history)
    assert [now.epoch for now in told if now.validation is not None] == [1, 2]


def test_pairs_reach_the_encoder_as_two_segments(base_directory: Path) -> None:
    """The second text of a pair has token type 1, and padding is masked."""
    base = bases.load(str(base_directory), 32)
    encoded = base.tokenizer.encode([("good", "bad bad"), "good"], truncate=True)
    batch = base.pad([rows.Example(rows.Row(row), n) for n, row in enumerate(encoded)])
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1], [0] * 6]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]


def test_batches_hold_each_row_once() -> None:
    """An epoch visits every row once, in batches of like length, in another order each time."""
    lengths = [n % 17 + 2 for n in range(103)]
    sampler = rows.LengthBatches(lengths, 8, 1)
    first, second = list(sampler), list(sampler)
    assert len(first) == len(sampler) == 13
    for epoch in (first, second):
        assert sorted(row for batch in epoch for row in batch) == list(range(103))
    assert first != second
    assert (
        max(max(map(lengths.__getitem__, b)) - min(map(lengths.__getitem__, b)) for b in first) < 4
    )


def test_divergence_is_an_error(config: Config) -> None:
    """Numbers that F16 cannot hold are refused with the parameter's name, and no file appears."""
    asked = config()
    model, _, _ = prepared(asked)
    start = {name: p.detach().clone() for name, p in model.encoder.named_parameters()}
    with torch.no_grad():
        model.head.out.weight[0, 0] = float("nan")
    with pytest.raises(errors.InvalidRequest, match=r"diverged: 'head\.out\.weight'"):
        saving.round_to_file(model, start)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem": "ranking"}, "`problem` must be one of single_label, multi_label"),
        ({"problem": "regression", "metric": "f1"}, "`metric` must be one of pearson, spearman"),
        ({"problem": "regression", "calibrate": True}, "`calibrate` has no meaning for"),
        ({"problem": "regression", "balance": 0.5}, "`balance` has no meaning for"),
        ({"problem": "token", "fit_thresholds": True}, "`fit_thresholds` has no meaning for"),
        ({"problem": "token", "head_input": "cls"}, "`head_input` must be one of token"),
        ({"metric": "mcc"}, "`metric` must be one of accuracy, f1, matthews, got 'mcc'"),
        ({"head_kind": "dense"}, "`head_kind` must be one of linear"),
        ({"head_input": "token"}, "`head_input` must be one of cls, pooler, mean"),
        ({"precision": "int8"}, "`precision` must be one of fp32, bf16"),
        ({"epochs": 0}, "`epochs` must lie between 1 and 1000"),
        ({"batch_rows": -5}, "`batch_rows` must lie between"),
        ({"bias_rate": float("nan")}, "`bias_rate` must lie between"),
        ({"validation": 0.0}, "`validation` must lie between"),
        ({"max_length": 1}, "`max_length` must lie between"),
        ({"dropout": 1.0}, "`dropout` must lie between"),
    ],
)
def test_settings_that_cannot_be_meant(
    config: Config, changes: dict[str, object], message: str
) -> None:
    """Each setting is bounded, and the message names it."""
    with pytest.raises(errors.InvalidRequest) as caught:
        config(**changes)
    assert str(caught.value).startswith(message)


def test_missing_paths_are_found_before_training(config: Config, tmp_path: Path) -> None:
    """A missing evaluation file, output folder or base is told at once, not after training."""
    with pytest.raises(errors.InvalidRequest, match="no such file"):
        training.train(config(evaluation=tmp_path / "none.csv"))
    with pytest.raises(errors.InvalidRequest, match="is a directory"):
        training.train(config(output=tmp_path))
    with pytest.raises(errors.InvalidRequest, match="is the data"):
        training.train(config(output=config().data))
    with pytest.raises(errors.InvalidRequest, match="no such directory to write to"):
        training.train(config(output=tmp_path / "none" / "a.safetensors"))
    with pytest.raises(errors.BadArtifact):
        training.train(config(base=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("keyword", ["key", "pooler"])
def test_biases_that_cannot_learn_are_refused(config: Config, keyword: str) -> None:
    """Keys cancel in the softmax, and a pooler that no head reads does nothing: not in silence."""
    with pytest.raises(errors.InvalidRequest, match=f"`biases` \\({keyword}\\) can change"):
        training.train(config(biases=(keyword,)))


def test_bad_evaluation_data_costs_no_training(config: Config, tmp_path: Path) -> None:
    """It is read when training is over: the adapter is written all the same, and that is told."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a", "label": "unheard of"}\n')
    asked = config(evaluation=bad, epochs=1)
    with pytest.raises(errors.InvalidRequest, match=r"bad\.jsonl:1: .* was written without"):
        training.train(asked)
    assert adapter_file.read_info(asked.output).training["evaluation"] is None


def test_a_pooler_that_the_base_lacks_is_refused(config: Config, tmp_path: Path) -> None:
    """A head on the pooler needs a pooler in the checkpoint; a made-up one is no base."""
    source = Path(config().base)
    torch.manual_seed(0)
    bare = transformers.BertModel.from_pretrained(source, add_pooling_layer=False)
    bare.save_pretrained(tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    with pytest.raises(errors.InvalidRequest, match="the base has no pooler"):
        training.train(config(base=str(tmp_path / "bare"), head_input="pooler"))


def prepared(
    asked: TrainConfig,
) -> tuple[classifier.Classifier, rows.Examples, bases.Base]:
    """The model and the rows as `train` prepares them."""
    base = bases.load(asked.base, asked.max_length)
    table = tables.read(asked.data, asked.columns, asked.problem)
    problem = problems.BY_NAME[asked.problem]
    names = problem.label_names(table, ())
    examples = rows.Examples(
        problem, names, rows.encode(base.tokenizer, table), problem.truth(table, names)
    )
    return training.build(base, examples, asked), examples, base


def apply(adapter: adapter_file.Adapter, model: classifier.Classifier, base: bases.Base) -> None:
    """Adds a file's offsets to a fresh encoder's biases and puts its head in place."""
    names = families.bias_names(base.shape)
    with torch.no_grad():
        for name, array in adapter.offsets.items():
            model.encoder.get_parameter(names[name]).add_(torch.tensor(array))
        for name, array in adapter.head.items():
            model.head.get_parameter(name).copy_(torch.tensor(array))
