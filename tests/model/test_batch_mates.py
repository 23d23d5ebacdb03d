"""A row's answer does not depend on who shares its batch, in any precision."""

import numpy as np
import pytest

from bertd import frames
from bertd.kernels import native, stack
from tests import tiny
from tests.model import running

# Of the row's largest logit. A product over other numbers of rows may add up in another order; in
# fp32 that is all. In bf16 and int8 a last bit may tip a value to its neighbour, here and there.
TOLERANCES = {"fp32": 1e-5, "bf16": 2e-2, "int8": 2e-2}
LENGTHS = [11, 3, 200, 11, 64, 1, 512]


@pytest.fixture(name="library", params=["torch", "native"])
def _library(request: pytest.FixtureRequest) -> stack.Library | None:
    if request.param == "torch":
        return None
    return native.open_library() or pytest.skip(native.reason())


@pytest.mark.parametrize("precision", TOLERANCES)
def test_alone_and_in_company(precision: str, library: stack.Library | None) -> None:
    """Beside rows of any lengths and number a row keeps its answer (D7)."""
    model = tiny.build("bert")
    engine = running.runner_of(model, precision, library)
    ids, types = tiny.rows(LENGTHS, 99, 2, seed=3)
    together = running.run(engine, ids, types, frames.Task.CLASSIFY)
    for i, t, got in zip(ids, types, together, strict=True):
        alone = running.run(engine, [i], [t], frames.Task.CLASSIFY)[0]
        assert running.relative_error(got, alone) < TOLERANCES[precision]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("precision", TOLERANCES)
def test_random_companions(precision: str, library: stack.Library | None, seed: int) -> None:
    """Beside random companions, drawn anew, in another order, a row keeps its answer."""
    model = tiny.build("bert")
    engine = running.runner_of(model, precision, library)
    rng = np.random.default_rng(seed)
    (row,), (kind,) = tiny.rows([17], 99, 2, seed=99)
    answers = []
    for size in rng.integers(1, 12, 6):
        lengths = rng.integers(1, 60, size).tolist()
        ids, types = tiny.rows(lengths, 99, 2, seed=int(rng.integers(1 << 30)))
        place = int(rng.integers(0, size + 1))
        ids.insert(place, row)
        types.insert(place, kind)
        answers.append(running.run(engine, ids, types, frames.Task.CLASSIFY)[place])
    for answer in answers[1:]:
        assert running.relative_error(answer, answers[0]) < TOLERANCES[precision]


@pytest.mark.parametrize("precision", TOLERANCES)
def test_equal_shapes_give_equal_bits(precision: str, library: stack.Library | None) -> None:
    """Where companions have equal lengths, what they say changes no bit of a row's answer."""
    model = tiny.build("bert")
    engine = running.runner_of(model, precision, library)
    answers = []
    for seed in range(4):
        ids, types = tiny.rows(LENGTHS, 99, 2, seed=seed)
        (ids[3],), (types[3],) = tiny.rows([LENGTHS[3]], 99, 2, seed=77)
        answers.append(running.run(engine, ids, types, frames.Task.CLASSIFY)[3])
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer, answers[0])


@pytest.mark.parametrize("precision", TOLERANCES)
def test_threads_do_not_matter(precision: str) -> None:
    """However many threads compute together, every bit is the same."""
    library = native.open_library()
    if library is None:
        pytest.skip(native.reason())
    model = tiny.build("mpnet")
    engine = running.runner_of(model, precision, library)
    ids, types = tiny.rows([40, 3, 3, 90], 99, 0)
    alone = running.run(engine, ids, types, frames.Task.EMBED)
    for got, want in zip(
        running.run(engine, ids, types, frames.Task.EMBED, threads=2), alone, strict=True
    ):
        np.testing.assert_array_equal(got, want)
