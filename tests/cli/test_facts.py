"""What a worker says of itself is told in words."""

import pytest

from bertd.cli import facts

DETAILS: dict[str, object] = {
    "adapters": 3,
    "precision": "int8",
    "kernels": "avx512-vnni",
    "kernelsReason": "",
    "efficiency": 0.714,
    "operationsPerToken": 169_869_312,
    "operationsPerTokenSquared": 36_864,
    "peakOperationsPerSecond": {"fp32": 99_400_000_000, "int8": 439_000_000_000},
    "wide": True,
    "foldedKey": "ab",
}


def test_every_fact_of_the_engine_is_told() -> None:
    """Precision, kernels, efficiency, peak, and that nothing is compiled at run time."""
    assert facts.engine(DETAILS) == {
        "adapters": 3,
        "compilation": "nothing is compiled on this machine at run time",
        "efficiency": "71% of the int8 peak while lanes were busy",
        "kernels": "avx512-vnni",
        "operations": "170 M a token, and 36.9 k for each token of its row",
        "peak": "fp32 99.4 G, int8 439 G operations/s for each core",
        "precision": "int8",
    }


def test_the_reason_of_a_fallback_is_told() -> None:
    """Whoever reads that torch computes reads why, and what auto chose for which reason."""
    told = facts.engine(
        DETAILS
        | {
            "kernels": "torch",
            "kernelsReason": "BERTD_KERNELS=eager",
            "precision": "bf16",
            "precisionReason": "auto: faster",
        }
    )
    assert told["kernels"] == "torch, slower than bertd's own: BERTD_KERNELS=eager"
    assert told["precision"] == "bf16 (auto: faster)"


@pytest.mark.parametrize(
    "missing",
    ["efficiency", "peakOperationsPerSecond", "operationsPerToken", "kernelsReason", "precision"],
)
def test_a_worker_that_says_less(missing: str) -> None:
    """Facts that are missing or of a strange kind leave their line empty, and break nothing."""
    facts.engine({key: value for key, value in DETAILS.items() if key != missing})
    facts.engine(DETAILS | {missing: None})
    facts.engine(DETAILS | {missing: "strange"})


def test_what_is_no_running_model_stays_as_it_is() -> None:
    """The details of an adapter, or of a Model that does not serve yet, are not touched."""
    assert facts.engine({"labelNames": ["a"]}) == {"labelNames": ["a"]}
    assert facts.engine({}) == {}


@pytest.mark.parametrize(
    ("value", "wanted"), [(0.5, "0.5"), (999, "999"), (1e3, "1 k"), (2.5e12, "2.5 T")]
)
def test_numbers_have_three_digits_and_a_unit(value: float, wanted: str) -> None:
    """As people say them."""
    assert facts.rate(value) == wanted
