"""What the benchmark of engines draws, counts, records and reports."""

import json
import sys
from collections.abc import Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from benchmarks.engine import block, names, own, report, results, rows, shapes, turns, workloads
from benchmarks.engine.peers import plain_bert
from tests import checkpoints

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
RECORDED = sorted(RESULTS.glob("engine-*.json"))
COLUMNS = ("model", "workload", "engine", "median_seconds", "min_seconds", "real_tokens")
OWN, PEER, SLOW = "bertd-int8-64-adapters", "openvino-int8", "transformers-fp32"


def batch(*lengths: int) -> rows.Rows:
    """Rows of these lengths; the ids of row n are n + 1."""
    ids = np.concatenate([np.full(length, n + 1) for n, length in enumerate(lengths)])
    return rows.Rows(lengths_B=np.array(lengths, np.int32), ids_T=ids.astype(np.int32))


def row(engine: str, seconds: Mapping[int, list[float]], **place: str) -> dict[str, Any]:
    """A row of the results, of 100 tokens and 1e9 operations an iteration."""
    count = sum(len(found) for found in seconds.values())
    return results.row(
        place={"model": "bert-base", "workload": "cola32", "engine": engine} | place,
        seconds=seconds,
        tokens=[100] * count,
        operations=[10**9] * count,
        peak=1e11,
        accuracy=None,
        variant="",
    )


def result(*measured: Mapping[str, Any]) -> results.Result:
    """Results that hold these rows."""
    machine = {
        "cpu": "a processor", "cores": 2, "threads": 2, "features": ["avx2"],
        "peak_operations_per_second": {"int8": 1e11},
    }  # fmt: skip
    return {
        "date": "2026-11-20",
        "command": "python -m benchmarks.engine",
        "machine": machine,
        "versions": {"torch": "2.13.0"},
        "rows": list(measured),
        "left_out": [{"model": "bert-base", "engine": SLOW, "reason": "it fell over"}],
    }


def test_every_engine_has_a_name_that_can_be_read() -> None:
    """The names of the issue come apart into library, precision and adapters."""
    assert names.parse("bertd-bf16-64-adapters") == names.Name(
        library="bertd", precision="bf16", adapters=64
    )
    assert names.parse("openvino-int8-padded").padded
    assert names.parse("torchao-dynamic-int8").precision == "int8"
    assert all(names.parse(engine).precision in names.PRECISIONS for engine in names.ENGINES)


@pytest.mark.parametrize("wrong", ["", "bertd", "bertd-int4", "openvino-int8-64-adapters"])
def test_an_unknown_engine_is_refused(wrong: str) -> None:
    """A typing error names what there is, before anything is measured."""
    with pytest.raises(ValueError, match="there are bertd-int8,"):
        names.parse(wrong)


def test_adapters_are_compared_with_the_same_adapters() -> None:
    """Adapters change answers, so int8 with 64 of them is held against fp32 with those 64."""
    assert names.reference("bertd-int8-64-adapters") == "bertd-fp32-64-adapters"
    assert names.reference("bertd-int8") == "transformers-fp32"


def test_padding_marks_what_is_real() -> None:
    """Ragged rows become a rectangle and a mask."""
    ids, mask = rows.pad(batch(1, 3, 2))
    assert ids.tolist() == [[1, 0, 0], [2, 2, 2], [3, 3, 0]]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 0]]


def test_groups_give_every_answer_back_in_its_place() -> None:
    """Sub-batches hold neighbours in length, and the order of answers is that of the rows."""
    widths = []

    def run(part: rows.Rows) -> rows.Floats:
        widths.append(int(part.lengths_B.max() - part.lengths_B.min()))
        return rows.pad(part)[0].max(1, keepdims=True).astype(np.float32)

    found = rows.in_groups(run, batch(9, 2, 8, 3, 1), 2)
    assert found[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert widths == [1, 1, 0]


def test_lanes_are_dealt_about_as_many_tokens() -> None:
    """No lane waits long for the other; every row is dealt once."""
    lengths_B = workloads.draw("mixed32", np.random.default_rng(0))[0].lengths_B
    hands = rows.deal(lengths_B, 2)
    held = [int(lengths_B[hand].sum()) for hand in hands]
    assert sorted([*hands[0], *hands[1]]) == list(range(32))
    assert max(held) - min(held) <= lengths_B.min()
    assert rows.deal(lengths_B[:1], 2) == [[0]]


@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_every_iteration_is_fresh_and_none_is_longer_than_a_model_allows(name: str) -> None:
    """Two draws never share their ids."""
    rng = np.random.default_rng(0)
    first, second = workloads.draw(name, rng), workloads.draw(name, rng)
    assert all(each.lengths_B.max() <= 256 for each in first)
    assert all(each.tokens == each.lengths_B.sum() for each in first)
    assert first[0].ids_T.tolist() != second[0].ids_T.tolist()


def test_the_development_set_is_whole() -> None:
    """CoLA's 527 + 516 sentences, in batches of 32."""
    batches = workloads.draw("cola-dev", np.random.default_rng(0))
    assert sum(len(each.lengths_B) for each in batches) == 1043
    assert sum(each.tokens for each in batches) == 12_165
    assert {len(each.lengths_B) for each in batches} == {32, 19}


def test_operations_are_those_of_the_reference() -> None:
    """BERT-base takes 22.35 GFLOP for a row of 128 tokens, MiniLM 0.69 for one of 32."""
    base = shapes.operations(shapes.SHAPES["bert-base"], [batch(128)])
    minilm = shapes.operations(shapes.SHAPES["minilm"], [batch(32)])
    assert base / 1e9 == pytest.approx(22.35, abs=0.01)
    assert minilm / 1e9 == pytest.approx(0.69, abs=0.005)
    assert shapes.operations(shapes.SHAPES["minilm"], [batch(32, 32)]) == 2 * minilm


def test_a_variant_that_holds_all_rows_in_one_group_is_not_tried() -> None:
    """It would do what the padded batch does; a lone row keeps one way into each hint."""
    variants = {"padded": 0, "by 16": 16, "by 1": 1}
    assert block.suitable(variants, 16) == ["padded", "by 1"]
    assert block.suitable(variants, 32) == ["padded", "by 16", "by 1"]
    assert block.suitable(variants, 1) == ["padded", "by 1"]


class Packing(turns.Contender):
    """An engine that packs weights for three seconds before its first answer; no process."""

    def __init__(self) -> None:
        self.engine, self.variants = PEER, {"padded": 0, "sorted": 8}
        self.seen: set[str] = set()

    def time(
        self, variant: str, iterations: Sequence[workloads.Iteration], warm: int = 0
    ) -> list[float]:
        """The padded way is the faster one, once its weights are packed."""
        packing = 0.0 if variant in self.seen else 3.0
        self.seen.add(variant)
        return [packing + {"padded": 0.1, "sorted": 0.2}[variant] for _ in iterations]


@pytest.mark.parametrize("order", [("padded", "sorted"), ("sorted", "padded")])
def test_no_variant_is_judged_by_its_first_call(order: tuple[str, str]) -> None:
    """Packing weights takes longer than a batch, and would rule out whoever is tried first."""
    contender = Packing()
    contender.variants = {name: contender.variants[name] for name in order}
    entry = block._enter(contender, "cola32", np.random.default_rng(0))
    assert entry.variant == "padded"
    assert entry.tried == {"padded": 0.1, "sorted": 0.2}


@pytest.mark.parametrize(("lengths", "lanes"), [((16,), [2]), ((9, 9), [2]), ((64, 64), [1, 1])])
def test_bertd_shares_a_batch_as_its_daemon_does(
    monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...], lanes: list[int]
) -> None:
    """A lone row, or few tokens, take all threads together; more go to lanes of one thread."""
    ran: list[int] = []

    def run(_: object, part: rows.Rows, slots_B: Sequence[int], threads: int) -> rows.Floats:
        assert len(slots_B) == len(part.lengths_B)
        ran.append(threads)
        return part.lengths_B[:, None].astype(np.float32)

    monkeypatch.setattr(own, "_lane", run)
    engine: Any = None
    with futures.ThreadPoolExecutor(2) as pool:
        found = own.run_rows(engine, pool, 2, batch(*lengths), [0] * len(lengths))
    assert found[:, 0].tolist() == list(lengths)
    assert ran == lanes


def test_a_row_has_the_columns_of_the_schema() -> None:
    """Median, minimum, real tokens and the share of the peak."""
    found = row(OWN, {0: [0.1, 0.2], 1: [0.3]})
    assert all(column in found for column in COLUMNS)
    assert (found["median_seconds"], found["min_seconds"], found["real_tokens"]) == (0.2, 0.1, 100)
    assert found["share_of_peak"] == pytest.approx(1e9 / 0.2 / 1e11)
    json.dumps(found)


def test_ratios_pair_the_rounds_that_both_ran() -> None:
    """A machine that slows down, and an engine that sat rounds out, change no ratio."""
    fast = row(OWN, {number: [0.1 * (number + 1)] for number in range(10)})
    slow = row(SLOW, {number: [0.4 * (number + 1)] for number in range(2)})
    found = results.ratio(fast, slow)
    assert found.median == pytest.approx(4)
    assert (found.low, found.high) == (pytest.approx(4), pytest.approx(4))
    assert results.ratio(slow, fast).median == pytest.approx(0.25)


def test_accuracy_is_told_beside_speed() -> None:
    """Largest and mean difference and cosine against the engine that is compared with."""
    expected = np.eye(2, dtype=np.float32)
    found = results.accuracy(expected * 1.5, expected, SLOW)
    assert found is not None
    assert (found["max_difference"], found["mean_difference"]) == (0.5, 0.25)
    assert found["min_cosine"] == pytest.approx(1)
    assert results.accuracy(expected, None, SLOW) is None


def test_bars_tell_what_was_reached() -> None:
    """A bar counts where both of its engines were measured in the same block."""
    own, peer = row(OWN, {0: [0.1]}), row(PEER, {0: [0.2]})
    reached = results.bars(result(own, peer))
    assert [(bar.least, round(found.median, 6)) for bar, found in reached] == [(1.5, 2.0)]
    assert results.bars(result(own)) == []


def test_a_block_replaces_what_was_measured_of_it_before() -> None:
    """A run in parts leaves one row for each engine, and other blocks as they were."""
    old, other = row(OWN, {0: [0.9]}), row(OWN, {0: [0.5]}, workload="single16")
    new = row(OWN, {0: [0.1]})
    found = results.put_block(result(old, other), [new], [])
    assert [each["median_seconds"] for each in found["rows"]] == [0.5, 0.1]
    assert found["left_out"] == []


def test_results_are_saved_whole(tmp_path: Path) -> None:
    """Nobody ever reads half of a file."""
    path = tmp_path / "new" / "engine-2026-11-20.json"
    results.save(path, result(row(OWN, {0: [0.1]})))
    assert json.loads(path.read_text())["rows"][0]["engine"] == OWN
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_the_report_shows_bars_ratios_and_who_was_left_out(tmp_path: Path) -> None:
    """A table and a plot beside the JSON."""
    made = result(row(OWN, {0: [0.1]}), row(PEER, {0: [0.12]}), row(SLOW, {0: [0.8]}))
    written = report.write(tmp_path / "engine.json", made)
    text = written[0].read_text()
    assert "| bertd-int8-64-adapters | 1.20 |" in text
    assert "missed by 20%" in text
    assert "transformers-fp32 on bert-base: it fell over" in text
    assert written[1].read_text().startswith("<?xml")


def test_the_best_peer_is_none_of_ours() -> None:
    """Ratios are against the fastest engine of others; without any there is none."""
    own, peer, slow = row(OWN, {0: [0.1]}), row(PEER, {0: [0.2]}), row(SLOW, {0: [0.9]})
    assert results.best_peer([own, peer, slow]) is peer
    assert results.best_peer([own]) is None


def test_an_engine_that_cannot_open_says_why(tmp_path: Path) -> None:
    """A library that is missing leaves its engine out, with the reason in the results."""
    with pytest.raises(turns.Failed, match="does not exist"):
        turns.Contender("bertd-fp32", Path(sys.executable), tmp_path, 1)


def test_an_engine_is_stopped_between_its_turns(tmp_path: Path) -> None:
    """Whoever has no turn cannot take time from the one that has; answers come back by row."""
    checkpoints.write(tmp_path / "checkpoint")
    contender = turns.Contender("bertd-fp32-2-adapters", Path(sys.executable), tmp_path, 2)
    try:
        (variant,) = contender.variants
        assert len(contender.time(variant, [[batch(3, 5)]] * 3, warm=1)) == 2
        answers = contender.answers(variant, [batch(3, 5), batch(4)])
        assert answers.shape[0] == 3
        assert answers[2] == pytest.approx(contender.answers(variant, [batch(4)])[0], abs=1e-5)
        assert contender.is_stopped
    finally:
        contender.close()


def test_the_graph_for_peers_is_the_model_of_transformers() -> None:
    """What is exported for their tools answers as transformers does, mean pooled."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    bert = transformers.BertModel(config, add_pooling_layer=False).eval()
    ids, mask = (torch.from_numpy(each) for each in rows.pad(batch(5, 9, 2)))
    with torch.inference_mode():
        hidden = bert(input_ids=ids, attention_mask=mask).last_hidden_state
        means = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        torch.testing.assert_close(plain_bert.PlainBert(bert)(ids, mask), means)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_results_keep_the_schema(path: Path) -> None:
    """Whoever reads the results finds machine, versions and rows, each engine once a block."""
    recorded = json.loads(path.read_text())
    assert {"machine", "versions", "rows"} <= recorded.keys()
    places = [tuple(each[column] for column in COLUMNS[:3]) for each in recorded["rows"]]
    assert len(set(places)) == len(places)
    for each in recorded["rows"]:
        assert each["model"] in names.MODELS
        assert each["workload"] in workloads.WORKLOADS
        names.parse(each["engine"])
        assert 0 < each["min_seconds"] <= each["median_seconds"]
