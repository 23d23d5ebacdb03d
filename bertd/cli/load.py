"""What `bertd bench MODEL` does: ask once, then load, then print."""

import asyncio
import contextlib
import gc
import importlib.util
import json
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertd import errors
from bertd.cli import load_report, terminal
from bertd.client import admin, channel, failure
from bertd.load import arrivals, calls, generator, outcome, requests, sentences, timeline

ALL = "all"
PLOTS = (".svg", ".png", ".pdf")
MAX_TEXTS_BYTES = 64 * 1024 * 1024
PROGRESS_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of `bertd bench`; with a `rate` of 0 the loop is closed."""

    target: str
    server: str
    concurrency: int
    rate: float
    duration_s: float
    warm_up_s: float
    deadline_s: float
    texts: Path | None
    lengths: str
    inputs: int
    adapters: str
    method: str
    connections: int
    seed: int
    plot: Path | None
    as_json: bool

    @property
    def plan(self) -> generator.Plan:
        """When calls begin."""
        return generator.Plan(
            concurrency=self.concurrency,
            rate=self.rate,
            duration_s=self.duration_s,
            warm_up_s=self.warm_up_s,
            deadline_s=self.deadline_s,
            seed=self.seed,
        )


def bench(asked: Asked) -> bool:
    """Loads a model and prints the result.

    Returns:
        Whether a call failed; refused and expired ones did not.

    Raises:
        errors.InvalidRequest: Options that do not go together, or a file that is not what it must
            be: before any load.
        failure.CallError: The daemon cannot be reached, or refuses the first call for good.
    """
    if asked.plot:
        _check_plot(asked.plot)
    source = random.Random(asked.seed)
    model, adapters = _named(asked)
    told, texts = _texts(asked, source)
    groups = arrivals.groups(texts, asked.inputs, source)
    drawn = requests.Requests(model, adapters, groups, source)
    points = timeline.Timeline()
    tally, core_s = _run(_load(asked, drawn, points if asked.plot else None))
    if asked.as_json:
        loop = {"rate": asked.rate} if asked.rate else {"concurrency": asked.concurrency}
        terminal.out(json.dumps(outcome.summary(tally) | loop))
    else:
        terminal.out(load_report.text(asked, tally, adapters=adapters, texts=told, core_s=core_s))
    for warning in load_report.warnings(tally):
        terminal.warn(warning)
    if asked.plot:
        from bertd.cli import load_plot  # noqa: PLC0415 (matplotlib is heavy, and may be missing)

        load_plot.draw(asked.plot, points, tally, title=load_report.title(asked))
        terminal.note(f"drew {asked.plot}")
    return tally.failed > 0


def _run(
    load: Coroutine[object, object, tuple[outcome.Tally, float]],
) -> tuple[outcome.Tally, float]:
    """Runs the load on the fastest loop that there is."""
    gc.collect()
    gc.freeze()  # a collection of everything that was imported would show as lag
    try:
        import uvloop  # noqa: PLC0415 (there is none on Windows)
    except ImportError:
        return asyncio.run(load)
    return uvloop.run(load)


async def _load(
    asked: Asked, drawn: requests.Requests, points: timeline.Timeline | None
) -> tuple[outcome.Tally, float]:
    """Makes the load; returns what became of it, and the seconds of a core spent on each call."""
    method = asked.method.capitalize()
    target = channel.data_target(asked.server)
    path = calls.INFERENCE + method
    async with calls.Calls(target, path, connections=asked.connections) as wire:
        await _ask_first(asked, wire, drawn)
        running = generator.Generator(
            asked.plan,
            wire,
            drawn.draw,
            read=requests.reader(method),
            observe=points.add if points else None,
        )
        async with _progress(running), _stopped_by_interrupt(running):
            began_s = time.process_time()
            tally = await running.run()
            spent_s = time.process_time() - began_s
        return tally, spent_s / max(running.made, 1)


async def _ask_first(asked: Asked, wire: calls.Calls, drawn: requests.Requests) -> None:
    """One call over every connection, and one of every adapter that was named one by one.

    What the daemon refuses for good ends the verb; overloaded and slow it may be.
    """
    heads = drawn.heads[:1] if asked.adapters == ALL else drawn.heads
    for at in range(max(asked.connections, len(heads))):
        request = drawn.first(heads[at % len(heads)])
        try:
            await wire.one(request, timeout_s=asked.deadline_s)
        except failure.CallError as error:
            is_busy = error.code == "UNAVAILABLE" and not error.unreachable
            if not is_busy and error.code != "DEADLINE_EXCEEDED":
                raise


@contextlib.asynccontextmanager
async def _stopped_by_interrupt(running: generator.Generator) -> AsyncIterator[None]:
    """The first Ctrl-C ends the span, and what was measured is printed; the second one leaves."""
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        running.stop()

    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        loop.add_signal_handler(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.remove_signal_handler(signal.SIGINT)


@contextlib.asynccontextmanager
async def _progress(running: generator.Generator) -> AsyncIterator[None]:
    """A line on a terminal's stderr, four times a second."""
    if not sys.stderr.isatty():
        yield
        return
    from rich import console, live, text  # noqa: PLC0415

    async def show(line: live.Live) -> None:
        while True:
            line.update(text.Text(load_report.progress(running)), refresh=True)
            await asyncio.sleep(PROGRESS_S)

    screen = console.Console(stderr=True)
    with live.Live(console=screen, auto_refresh=False, transient=True) as line:
        task = asyncio.create_task(show(line))
        try:
            yield
        finally:
            task.cancel()


def _named(asked: Asked) -> tuple[str, list[str]]:
    """The Model and the adapters that calls name; one without a name is the Model's own head."""
    model, _, adapter = asked.target.partition("/")
    if not asked.adapters:
        return model, [adapter]
    if adapter:
        raise errors.InvalidRequest(
            "`--adapters` must not be given with MODEL/ADAPTER", hint="give MODEL alone"
        )
    if asked.adapters == ALL:
        return model, _declared(asked.server, model)
    names = [name.strip() for name in asked.adapters.split(",")]
    if not all(names):
        raise errors.InvalidRequest("`--adapters` must be names with commas between them")
    return model, names


def _declared(server: str, model: str) -> list[str]:
    with admin.AdminClient(server or None) as daemon:
        try:
            found = [each.name.rpartition("/")[2] for each in daemon.list("Adapter", model=model)]
        except failure.CallError as error:
            if error.code != "UNIMPLEMENTED":
                raise
            raise errors.InvalidRequest(
                f"'{daemon.address}' does not list adapters: it is a data port",
                hint="name the adapters, or the daemon's admin socket",
            ) from None
    if not found:
        raise errors.NotFound(f"no adapters are declared for model '{model}'")
    return found


def _texts(asked: Asked, source: random.Random) -> tuple[str, Sequence[str]]:
    """What calls carry: in words, and the texts."""
    if asked.texts and asked.lengths:
        raise errors.InvalidRequest("only one of `--texts` and `--lengths` must be given")
    if asked.lengths:
        drawn = arrivals.texts(arrivals.lengths(asked.lengths), source)
        return f"common English words, {asked.lengths} tokens", drawn
    if asked.texts:
        lines = _lines(asked.texts)
        return f"{len(lines)} lines of {asked.texts}", lines
    sentences_ = sentences.SENTENCES
    return f"bertd's own {len(sentences_)} sentences of 5 to 35 tokens", sentences_


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TEXTS_BYTES + 1)
        if len(content) > MAX_TEXTS_BYTES:
            raise errors.InvalidRequest(f"'{path}' must not exceed {MAX_TEXTS_BYTES} bytes")
        lines = [line for line in content.decode().splitlines() if line.strip()]
    except OSError as error:
        raise errors.InvalidRequest(f"`--texts` cannot be read: {error}") from None
    except UnicodeDecodeError:
        raise errors.InvalidRequest(f"'{path}' must be UTF-8") from None
    if not lines:
        raise errors.InvalidRequest(f"'{path}' must have at least one line of text")
    return lines


def _check_plot(path: Path) -> None:
    """Refuses before the load what could not be drawn after it."""
    if path.suffix not in PLOTS:
        raise errors.InvalidRequest(f"`--plot` must end in {', '.join(PLOTS)}, not '{path.name}'")
    if importlib.util.find_spec("matplotlib") is None:
        raise errors.InvalidRequest(
            "`--plot` needs matplotlib, which is not installed", hint="pip install matplotlib"
        )
    if not path.absolute().parent.is_dir():
        raise errors.InvalidRequest(f"there is no directory '{path.absolute().parent}'")
