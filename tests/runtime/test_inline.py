"""Adapters that calls bring: proved once, kept for a while, bounded for every caller."""

import asyncio
import gc
import hashlib
import threading
from concurrent import futures
from pathlib import Path

import prometheus_client
import pytest

from bertd import errors, metrics
from bertd.checkpoint import files
from bertd.runtime import inline, router, slots
from tests import inline_adapters
from tests.runtime import fakes

CALLER = "ipv4:10.0.0.1"
LONGEST_WAIT_S = 10.0


class Bench:
    """An `Inline` over a directory of the test, with a clock and counters."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "inline"
        self.base = inline_adapters.base(directory / "base")
        self.clock = fakes.Clock()
        self.registry = prometheus_client.CollectorRegistry()
        self.inline = inline.Inline(
            self.directory, metrics=metrics.Metrics(self.registry), clock=self.clock
        )

    def on(self, base: files.Base | None = None, *, allows: bool = True) -> router.Route:
        """The route of a model on this base."""
        return router.Route(
            model="english",
            adapter="",
            revision="r1",
            digest="",
            output=None,
            tokenizer=None,
            truncate=True,
            normalize=False,
            base=base or self.base,
            allows_inline=allows,
            target=None,
            lease=None,
            content=None,
        )

    def asked(self, data: bytes, caller: str = CALLER) -> asyncio.Task[router.Route]:
        """A call that has begun."""
        return asyncio.ensure_future(self.inline.route(self.on(), data, caller))

    async def route(self, data: bytes, caller: str = CALLER) -> router.Route:
        """A call that has ended."""
        return await self.asked(data, caller)

    def adapter(self, seed: int = 0, **changes: object) -> bytes:
        """An adapter of this base."""
        return inline_adapters.adapter(self.base, seed, **changes)

    def count(self, result: str) -> float:
        """How many calls ended so."""
        named = {"model": "english", "result": result}
        return self.registry.get_sample_value("bertd_inline_adapters_total", named) or 0.0

    @property
    def stored(self) -> list[str]:
        """The digests of the files that lie in the directory."""
        return sorted(path.name.partition(".")[0] for path in self.directory.iterdir())


@pytest.fixture(name="bench")
def _bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def refusal(task: asyncio.Task[router.Route]) -> errors.Error:
    """The error of a call that must fail."""
    with pytest.raises(errors.Error) as raised:
        await task
    return raised.value


def digest(data: bytes) -> str:
    """The sha256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


async def test_bytes_become_a_route(bench: Bench) -> None:
    """The route names the file by its sha256, and its head's meaning comes from the file."""
    data = bench.adapter(temperature=2.0, thresholds={"long": 0.75}, training={"epochs": 3})
    route = await bench.route(data)
    assert (route.model, route.adapter, route.digest) == ("english", "", digest(data))
    assert route.output == router.Output(
        label_names=inline_adapters.LABELS,
        problem="single_label",
        temperature=2.0,
        thresholds={"long": 0.75},
    )
    assert route.content.inline
    assert route.content.digest == digest(data)
    assert route.content.path.read_bytes() == data


async def test_known_bytes_are_proved_once_and_cost_no_token(bench: Bench) -> None:
    """The same bytes again are a hit, from whomever, also when the caller's bucket is empty."""
    data = bench.adapter()
    first = await bench.route(data)
    for number in range(100):
        again = await bench.route(bytes(bytearray(data)), f"ipv4:10.0.0.{number % 3}")
        assert again.content is first.content
    assert (bench.count("new"), bench.count("hit")) == (1, 100)
    assert bench.stored == [digest(data)]


async def test_fifty_calls_at_once_wait_for_one_proof(bench: Bench) -> None:
    """One call pays and proves, the others wait for it and get the same file."""
    data = bench.adapter()
    routes = await asyncio.gather(*(bench.route(data) for _ in range(50)))
    assert len({id(route.content) for route in routes}) == 1
    assert (bench.count("new"), bench.count("hit")) == (1, 49)
    await asyncio.gather(*(bench.route(bench.adapter(1 + at)) for at in range(19)))
    assert len(bench.stored) == 20  # the burst was charged for one of the fifty


@pytest.mark.parametrize("name", inline_adapters.BROKEN)
async def test_what_is_no_adapter_is_refused_by_name(bench: Bench, name: str) -> None:
    """Truncated, pickled, foreign, not finite: a bad request, its reason (B8, checklist 84)."""
    make, reason, text = inline_adapters.BROKEN[name]
    error = await refusal(bench.asked(make(bench.base)))
    assert isinstance(error, errors.InvalidRequest)
    assert error.reason == reason
    assert text in str(error)
    assert bench.stored == []
    assert bench.count("refused") == 1
    await bench.route(bench.adapter())


async def test_a_file_over_the_limit_is_refused_unread(bench: Bench) -> None:
    """The message says its size and the limit; it costs no token."""
    for _ in range(30):
        error = await refusal(bench.asked(bytes(inline.MAX_INLINE_BYTES + 1)))
        assert error.reason == "TooLarge"
        assert "at most 2097152 bytes, and has 2097153" in str(error)
    error = await refusal(bench.asked(bytes(inline.MAX_INLINE_BYTES)))
    assert error.reason == "BadSafetensors"


async def test_a_large_file_is_hashed_elsewhere_to_the_same_name(bench: Bench) -> None:
    """What is too long to be hashed on the event loop is named by its sha256 as well."""
    labels = tuple(f"{number:03} {'é' * 252}" for number in range(inline.LABELS_MAX))
    data = bench.adapter(label_names=labels)
    assert len(data) > inline.LONGEST_HASHED_HERE_BYTES
    assert (await bench.route(data)).digest == digest(data)


async def test_downloads_of_other_models_keep_no_adapter_waiting(bench: Bench) -> None:
    """The loop's own threads may all be busy for minutes: proofs and digests have others."""
    release = threading.Event()
    with futures.ThreadPoolExecutor(1) as busy:
        asyncio.get_running_loop().set_default_executor(busy)
        download = asyncio.ensure_future(asyncio.to_thread(release.wait))
        labels = tuple(f"{number:03} {'é' * 252}" for number in range(inline.LABELS_MAX))
        data = bench.adapter(label_names=labels)
        try:
            for _ in range(2):
                async with asyncio.timeout(LONGEST_WAIT_S):
                    assert (await bench.route(data)).digest == digest(data)
        finally:
            release.set()
            await download


async def test_more_labels_than_a_call_may_bring_are_refused(bench: Bench) -> None:
    """What a stranger's head makes a worker compute and a reply say is bounded."""
    labels = tuple(map(str, range(inline.LABELS_MAX + 1)))
    error = await refusal(bench.asked(bench.adapter(label_names=labels)))
    assert error.reason == "TooManyLabels"
    assert "at most 512 labels, and has 513" in str(error)
    assert bench.stored == []


async def test_a_model_that_takes_none_says_so(bench: Bench) -> None:
    """Unless the Model allows it no byte is looked at."""
    route = bench.on(allows=False)
    with pytest.raises(errors.NotServable, match="'english' takes no `adapter_bytes`") as raised:
        await bench.inline.route(route, bench.adapter(), CALLER)
    assert raised.value.reason == "InlineAdaptersNotAllowed"
    assert "allowInlineAdapters: true" in raised.value.hint
    assert (bench.stored, bench.count("refused")) == ([], 1)


@pytest.mark.parametrize("is_known", [False, True])
async def test_bytes_serve_their_own_base_alone(
    bench: Bench, tmp_path: Path, is_known: bool
) -> None:
    """The same bytes on a model of another base are refused, also when they are known (B8)."""
    data = bench.adapter()
    if is_known:
        await bench.route(data)
    other = bench.on(inline_adapters.base(tmp_path / "other", seed=1))
    with pytest.raises(errors.InvalidRequest, match="but the model's base is") as raised:
        await bench.inline.route(other, data, CALLER)
    assert raised.value.reason == "WrongBase"
    assert (await bench.route(data)).digest == digest(data)


async def test_a_burst_of_a_hundred_is_cut_and_others_are_served(bench: Bench) -> None:
    """Past the burst one caller is told when to come again, and another notices nothing."""
    burst = [bench.asked(bench.adapter(seed)) for seed in range(100)]
    modest = bench.asked(bench.adapter(1000), "ipv4:10.0.0.2")
    assert (await modest).content.inline
    results = await asyncio.gather(*burst, return_exceptions=True)
    limited = [each for each in results if isinstance(each, errors.Overloaded)]
    assert len(results) - len(limited) == inline.RATE.burst
    assert [each.retry_after_s for each in limited] == pytest.approx([0.1] * 80)
    assert (bench.count("new"), bench.count("limited")) == (21, 80)
    bench.clock.now_s += 0.1001
    await bench.route(bench.adapter(99))
    assert isinstance(await refusal(bench.asked(bench.adapter(98))), errors.Overloaded)


async def test_refused_bytes_cost_a_token_as_well(bench: Bench) -> None:
    """Whoever sends only rubbish is soon refused unread."""
    found = [await refusal(bench.asked(b"rubbish %d" % at)) for at in range(30)]
    assert [type(each) for each in found[18:22]] == [
        *[errors.InvalidRequest] * 2,
        *[errors.Overloaded] * 2,
    ]


async def test_too_many_proofs_at_once_are_refused_whoever_asks(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many callers come together, few files wait in memory; nobody loses a token."""
    monkeypatch.setattr(inline, "PROOFS_MAX", 2)
    started = [bench.asked(bench.adapter(at), f"ipv4:10.0.0.{at}") for at in range(3)]
    error = await refusal(started[2])
    assert isinstance(error, errors.Overloaded)
    assert error.retry_after_s > 0
    await asyncio.gather(*started[:2])
    assert (await bench.route(bench.adapter(2), "ipv4:10.0.0.2")).content.inline


async def test_a_call_that_leaves_takes_the_proof_from_nobody(bench: Bench) -> None:
    """The call that began a proof is cancelled: whoever waits for it gets its answer."""
    first, second = bench.asked(bench.adapter()), bench.asked(bench.adapter())
    await asyncio.sleep(0)
    first.cancel()
    route = await second
    assert first.cancelled()
    assert route.content.path.exists()
    assert (bench.count("new"), bench.count("hit")) == (0, 1)


@pytest.mark.parametrize("data", [None, b"rubbish"])
async def test_a_proof_that_nobody_waits_for_ends_quietly(
    bench: Bench, data: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """All calls are cancelled: the proof ends, good or bad, and the next call is answered."""
    only = bench.asked(data or bench.adapter())
    await asyncio.sleep(0)
    only.cancel()
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
    assert (await bench.route(bench.adapter())).content.inline
    gc.collect()
    assert caplog.records == []
    assert (bench.count("new"), bench.count("hit")) == ((0, 1) if data is None else (1, 0))


async def test_a_file_stays_while_a_call_may_load_it(bench: Bench) -> None:
    """Pushed out of the cache, a file lives until the last route lets go of it."""
    route = await bench.route(bench.adapter())
    for seed in range(1, inline.KEPT_OF_A_BASE_MAX + 1):
        await bench.route(bench.adapter(seed), f"ipv4:10.0.1.{seed}")
    assert len(bench.stored) == inline.KEPT_OF_A_BASE_MAX + 1
    assert route.content.path.exists()
    path = route.content.path
    del route
    assert not path.exists()
    assert len(bench.stored) == inline.KEPT_OF_A_BASE_MAX


async def test_a_file_stays_while_it_may_be_loaded_again(bench: Bench) -> None:
    """A worker that is restarted loads what rows name: an adapter in memory keeps its file."""
    running = await fakes.started()
    route = await bench.route(bench.adapter())
    path = route.content.path

    async def asked(content: slots.Content) -> None:
        call = running.call(1, by=content)
        await fakes.until(lambda: bool(running.process.running))
        running.process.finish(0)
        await call

    await asked(route.content)
    del route
    for seed in range(1, inline.KEPT_OF_A_BASE_MAX + 1):
        other = await bench.route(bench.adapter(seed), f"ipv4:10.0.1.{seed}")
        assert path.exists()
        if seed < inline.KEPT_OF_A_BASE_MAX:
            await asked(other.content)
    assert digest(bench.adapter()) in running.process.loaded.values()
    await asked(other.content)
    await fakes.until(lambda: not path.exists())
    assert digest(bench.adapter()) not in running.process.loaded.values()


async def test_bytes_that_were_pushed_out_are_proved_again(bench: Bench) -> None:
    """A file that an old call still holds and the new one of the same bytes never meet."""
    old = await bench.route(bench.adapter())
    for seed in range(1, inline.KEPT_OF_A_BASE_MAX + 1):
        await bench.route(bench.adapter(seed), f"ipv4:10.0.1.{seed}")
    new = await bench.route(bench.adapter())
    assert new.content.path != old.content.path
    del old
    assert new.content.path.read_bytes() == bench.adapter()


async def test_what_is_used_stays(bench: Bench) -> None:
    """The least recently used goes first."""
    kept = bench.adapter()
    for seed in range(2 * inline.KEPT_OF_A_BASE_MAX):
        await bench.route(kept)
        await bench.route(bench.adapter(1 + seed), f"ipv4:10.0.1.{seed}")
    assert digest(kept) in bench.stored
    assert (bench.count("new"), len(bench.stored)) == (129, inline.KEPT_OF_A_BASE_MAX)


async def test_one_base_cannot_push_out_another(bench: Bench, tmp_path: Path) -> None:
    """Each base has its share of the cache, as many as its table holds of them."""
    other = inline_adapters.base(tmp_path / "other", seed=1)
    data = inline_adapters.adapter(other)
    await bench.inline.route(bench.on(other), data, CALLER)
    for seed in range(inline.KEPT_OF_A_BASE_MAX + 10):
        await bench.route(bench.adapter(seed), f"ipv4:10.0.1.{seed}")
    assert digest(data) in bench.stored
    assert len(bench.stored) == inline.KEPT_OF_A_BASE_MAX + 1


@pytest.mark.parametrize("bound", ["KEPT_MAX", "KEPT_BYTES_MAX"])
async def test_the_whole_cache_is_bounded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """However many bases there are, neither count nor bytes grow past their limits."""
    weight = len(bench.adapter())
    monkeypatch.setattr(inline, bound, 5 if bound == "KEPT_MAX" else 5 * weight + weight // 2)
    for seed in range(12):
        await bench.route(bench.adapter(seed))
    assert len(bench.stored) == 5


@pytest.mark.parametrize("is_cut", [False, True])
async def test_a_file_that_somebody_else_removed_is_written_again(
    bench: Bench, is_cut: bool
) -> None:
    """A kept adapter whose file is gone or was cut is a new one, so that its callers are served."""
    data = bench.adapter()
    path = (await bench.route(data)).content.path
    path.unlink()
    if is_cut:
        path.write_bytes(data[:-1])
    route = await bench.route(data)
    assert route.content.path.read_bytes() == data
    assert (bench.count("new"), bench.count("hit")) == (2, 0)
    assert (await bench.route(data)).content is route.content
    assert bench.stored == [digest(data)]


async def test_what_an_earlier_daemon_left_is_removed(tmp_path: Path) -> None:
    """Nothing of an earlier process is served or kept."""
    left = tmp_path / "inline" / ("ab" * 32)
    left.parent.mkdir()
    left.write_bytes(b"old")
    bench = Bench(tmp_path)
    assert bench.stored == []
    assert (bench.directory.stat().st_mode & 0o777) == 0o700


async def test_a_directory_that_cannot_be_emptied_is_said(tmp_path: Path) -> None:
    """A file in its place is a trouble of the disk, not a traceback."""
    (tmp_path / "inline").write_bytes(b"")
    with pytest.raises(errors.Temporary, match="'inline' in the state directory"):
        Bench(tmp_path)


async def test_a_failing_disk_is_told_to_each_caller(bench: Bench) -> None:
    """Calls that wait for one failing write each get an error of their own; nothing stays."""
    bench.directory.rmdir()
    waiting = [bench.asked(bench.adapter()) for _ in range(3)]
    found = [await refusal(each) for each in waiting]
    assert len({id(error) for error in found}) == 3
    assert {type(error) for error in found} == {errors.Temporary}
    assert {error.reason for error in found} == {"DiskError"}
    bench.directory.mkdir()
    assert (await bench.route(bench.adapter())).content.path.exists()
