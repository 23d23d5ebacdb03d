"""Native kernels of every instruction set compute what their eager twin does, in place."""

import mmap
import types
import warnings
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertd import errors
from bertd.kernels import eager, layout, native, stack
from tests.kernels import libraries, making

# Of the largest value, two layers deep. fp32: other orders of summing. bf16: torch rounds every
# product to bf16, native code none. int8: the last bit of a sum may tip a value to the next of 255
# levels; where attention rounds to bf16, in another order than torch, it tips many.
TOLERANCES = {"fp32": 1e-5, "bf16": 2e-2, "int8": 4e-2}
CASES: dict[str, dict[str, Any]] = {
    "lengths": {"lengths": [5, 5, 20, 1, 33, 2], "slots": [1, 2, 3, 4, 5, 5]},
    "one row": {"lengths": [1]},
    "one adapter": {"lengths": [40, 3, 7], "slots": [6, 6, 6]},
    "odd sizes": {
        "lengths": [3, 64], "slots": [7, 0], "hidden": 30, "heads": 5, "ffn": 77, "embedding": 30,
    },
    "relative": {"lengths": [3, 3, 60], "relative_buckets": 32, "activation": "relu"},
    "wide heads": {
        "lengths": [64, 2, 2, 7], "activation": "gelu_tanh", "hidden": 128, "heads": 1, "ffn": 512,
        "embedding": 128,
    },
    "minilm": {"lengths": [17, 31], "hidden": 384, "heads": 12, "ffn": 1536, "embedding": 384},
    "broken blocks": {
        "lengths": [6, 13], "hidden": 160, "heads": 5, "ffn": 300, "embedding": 160,
    },
    "many rows": {"lengths": [4] * 70, "slots": [row % 8 for row in range(70)]},
}  # fmt: skip


@pytest.fixture(name="library", params=libraries.CAPS)
def _library(request: pytest.FixtureRequest) -> native.Library:
    return libraries.opened(request.param)


def twin(case: making.Case, library: native.Library) -> eager.Twin:
    """The twin whose attention computes in what the library's does."""
    inside = torch.float32 if case.made_of.precision == "fp32" else library.attention_dtype
    return eager.Twin(case.made_of, inside)


@pytest.mark.parametrize("precision", layout.ELEMENTS)
@pytest.mark.parametrize("name", CASES)
def test_native_equals_its_twin(library: native.Library, precision: str, name: str) -> None:
    """Any lengths, adapters, head sizes and activations: the same numbers as torch's."""
    case = making.case(precision, **CASES[name])
    got = case.run(library.prepare(case.made_of))
    making.close(got, case.run(twin(case, library)), TOLERANCES[precision])


@settings(max_examples=25, deadline=None)
@given(
    precision=st.sampled_from(sorted(layout.ELEMENTS)),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    heads=st.integers(1, 4),
    width=st.integers(8, 40),
    ffn=st.integers(1, 150),
    seed=st.integers(0, 99),
)
def test_any_shape(
    precision: str, lengths: list[int], heads: int, width: int, ffn: int, seed: int
) -> None:
    """No width, head size or row length is special to the best kernels of this machine."""
    library = native.open_library()
    if library is None:
        pytest.skip(native.reason())
    hidden = heads * width
    sizes = {"hidden": hidden, "heads": heads, "ffn": ffn, "embedding": hidden, "layers": 1}
    case = making.case(precision, lengths, seed=seed, **sizes)
    got = case.run(library.prepare(case.made_of))
    making.close(got, case.run(twin(case, library)), TOLERANCES[precision])


@pytest.mark.parametrize("precision", layout.ELEMENTS)
def test_threads_change_no_bit(library: native.Library, precision: str) -> None:
    """One thread and several give equal bits, also where threads outnumber what there is to do."""
    for name in ("lengths", "one row", "minilm"):
        case = making.case(precision, **CASES[name])
        runner = library.prepare(case.made_of)
        alone = case.run(runner)
        for threads in (2, 3, 64):
            assert torch.equal(case.run(runner, threads), alone), (name, threads)


@pytest.mark.parametrize("precision", layout.ELEMENTS)
def test_lanes_change_no_bit(library: native.Library, precision: str) -> None:
    """Lanes that run at once, each on several threads, share helpers and nothing else."""
    cases = [making.case(precision, **CASES[name]) for name in ("lengths", "one row", "many rows")]
    runners = [library.prepare(case.made_of) for case in cases]
    alone = [case.run(runner) for case, runner in zip(cases, runners, strict=True)]

    def lane(number: int) -> bool:
        order = [(number + turn) % len(cases) for turn in range(9)]
        return all(torch.equal(cases[i].run(runners[i], 2), alone[i]) for i in order)

    with futures.ThreadPoolExecutor(4) as lanes:
        assert all(lanes.map(lane, range(4)))


@pytest.mark.parametrize("precision", layout.ELEMENTS)
@pytest.mark.parametrize("name", CASES)
def test_first_tokens_alone(library: native.Library, precision: str, name: str) -> None:
    """Where only first tokens are read, they have the same bits as in the whole answer."""
    case = making.case(precision, **CASES[name])
    runner = library.prepare(case.made_of)
    whole = case.first_tokens(case.run(runner))
    for threads in (1, 3):
        got = case.first_tokens(case.run(runner, threads, first_only=True))
        assert torch.equal(got, whole)


@pytest.mark.parametrize("first_only", [False, True])
def test_no_rows(library: native.Library, first_only: bool) -> None:
    """A batch of nothing is nothing."""
    case = making.case("int8", [5])
    nothing: Any = types.SimpleNamespace(lengths_B=[], slots_B=[])
    library.prepare(case.made_of).run(case.x_TD[:0], nothing, case.rows_SLW, 2, first_only)


@pytest.mark.parametrize("precision", layout.ELEMENTS)
def test_rows_do_not_see_each_other(library: native.Library, precision: str) -> None:
    """A row is the same to the bit whatever its companions hold, how long they are or how many."""
    case = making.case(precision, [7, 20, 7, 1], [1, 2, 3, 1])
    runner = library.prepare(case.made_of)
    together = case.run(runner).split([7, 20, 7, 1])
    parts = case.x_TD.split([7, 20, 7, 1])
    for part, slot, got in zip(parts, [1, 2, 3, 1], together, strict=True):
        y_TD = part.clone()
        runner.run(y_TD, making.batch([len(part)], [slot]), case.rows_SLW, 1)
        assert torch.equal(y_TD, got)


@pytest.mark.parametrize("precision", layout.ELEMENTS)
def test_weights_run_from_a_mapped_file(
    library: native.Library, precision: str, tmp_path: Path
) -> None:
    """A read-only mapping of a file's bytes is the weight: nothing is copied, nothing differs."""
    case = making.case(precision, [9, 9, 30])
    path = tmp_path / "weights"
    parts = [getattr(layer, name) for layer in case.made_of.layers for name in making.PARTS]
    path.write_bytes(b"".join(part.data.numpy().tobytes() for part in parts))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch: that the buffer is read-only
        whole = torch.frombuffer(mapped, dtype=torch.uint8)
    pieces = iter(whole.split([part.nbytes for part in parts]))

    def read(linear: layout.Linear) -> layout.Linear:
        return layout.from_bytes(next(pieces), precision, linear.rows, linear.columns)

    layers = tuple(
        stack.Layer(
            **{name: read(getattr(layer, name)) for name in making.PARTS},
            attention_gain_D=layer.attention_gain_D,
            ffn_gain_D=layer.ffn_gain_D,
        )
        for layer in case.made_of.layers
    )
    assert layers[0].qkv.address == whole.data_ptr()
    again = stack.Stack(
        shape=case.made_of.shape, precision=precision, layers=layers, relative_HSS=None
    )
    assert torch.equal(case.run(library.prepare(again)), case.run(library.prepare(case.made_of)))


def test_what_cannot_be_run_in_place_is_refused(library: native.Library) -> None:
    """Hidden states of another dtype, layout, length or width never reach raw pointers."""
    case = making.case("fp32", [5])
    runner = library.prepare(case.made_of)
    x_TD = case.x_TD
    for wrong in (x_TD.double(), x_TD.t().contiguous().t(), x_TD[:4], x_TD[:, :90].clone()):
        with pytest.raises(Exception, match="kernels run over fp32"):
            runner.run(wrong, case.batch, case.rows_SLW, 1)


@pytest.mark.parametrize(
    ("lengths", "slots", "said"),
    [([0, 5], [0, 0], "rows of 1 to"), ([70], [0], "rows of 1 to 64"), ([6, -1], [0, 0], "rows of")]
    + [([5], [slot], "know 8 slots") for slot in (8, -1)],
)
def test_rows_that_reach_beyond_are_refused(
    library: native.Library, lengths: list[int], slots: list[int], said: str
) -> None:
    """Rows of no tokens or past the relative positions, and unknown slots, are never read."""
    case = making.case("fp32", [5], relative_buckets=32)
    x_TD = torch.zeros(sum(lengths), 96)
    rows: Any = types.SimpleNamespace(lengths_B=lengths, slots_B=slots)
    with pytest.raises(errors.Bug, match=said):
        library.prepare(case.made_of).run(x_TD, rows, case.rows_SLW)


def test_another_table_is_refused(library: native.Library) -> None:
    """A table of another dtype, width, number of layers or order is never read."""
    case = making.case("fp32", [5])
    table = case.rows_SLW
    turned = table.transpose(1, 2).contiguous().transpose(1, 2)
    for wrong in (table.double(), table[:, :, :-1], table[:, :1], turned):
        with pytest.raises(errors.Bug, match="kernels read tables"):
            library.prepare(case.made_of).run(case.x_TD, case.batch, wrong)
