"""What a core can do is measured, and what a token costs is counted."""

import itertools
from pathlib import Path

import pytest
import torch

from bertd import families
from bertd.engine import peak

BERT_BASE = families.shape(
    {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
    }
)


def test_operations_of_bert_base() -> None:
    """2L(4h² + 2hi) for each token and 4Lh for each pair: 22.35 G for 128 tokens of BERT-base."""
    linear, squared = peak.operations(BERT_BASE)
    assert linear == 169_869_312
    assert 128 * (linear + 128 * squared) / 1e9 == pytest.approx(22.35, abs=0.01)


def test_first_tokens_need_less_of_the_last_layer() -> None:
    """Of a token that nobody reads the last layer needs its key and value, and no more."""
    linear, squared = peak.operations(BERT_BASE)
    assert peak.needed(BERT_BASE, [5, 3], first_only=False) == 8 * linear + (25 + 9) * squared
    assert peak.needed(BERT_BASE, [1, 1], first_only=True) == 2 * (linear + squared)
    keys_and_values = 2 * 2 * 768**2
    whole, last = 11 / 12, 1 / 12
    read = linear * last + 128 * squared * last
    expected = 128 * (linear + 128 * squared) * whole + 127 * keys_and_values + read
    assert peak.needed(BERT_BASE, [128], first_only=True) == pytest.approx(expected)


def test_every_precision_has_a_peak() -> None:
    """The products run, and each gives a rate."""
    found = peak.measure(0.0)
    assert set(found) == {"fp32", "bf16", "int8"}
    together = peak.measure_all(2, 0.001)
    assert set(together) == set(found)
    assert all(rate >= 0 for rate in (*found.values(), *together.values()))


def test_the_best_call_counts() -> None:
    """Of several calls the fastest is the peak; the first, which pays for what is lazy, is not."""
    ticks = iter([0.0, 5.0, 7.0, 12.0])
    calls = itertools.count()
    assert peak.best(lambda: next(calls), 10.0, lambda: next(ticks)) == 2.0
    assert next(calls) == 4


def test_a_rate_is_calls_over_time() -> None:
    """Calls are counted until the time is over, and divided by the time that really passed."""
    ticks = iter([0.0, 1.0, 2.0, 4.0])
    assert peak.rate(lambda: None, 3.0, lambda: next(ticks)) == 2 / 4


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC\nmodel name\t: other\n", "AMD EPYC"),
        ("Features : neon\n", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_processor_has_a_name(tmp_path: Path, text: str | None, wanted: str) -> None:
    """The first processor's name; one that the kernel does not name is unknown."""
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert peak.processor(tmp_path / "cpuinfo") == wanted


def test_threads_of_torch_never_outnumber_the_cores() -> None:
    """A count above the cores is lowered, one below is somebody's choice and stays."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        peak.limit(2)
        assert torch.get_num_threads() == 2
        peak.limit(8)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
