"""`bertd bench`: the grammar of the load generator, and the machine's own peak.

The matrix peak is what every share of it (`bertd_compute_efficiency`, the tables of benchmarks) is
measured against. Torch's own OpenMP threads stay at one: each core runs its own products.
"""

import enum
import os
from pathlib import Path
from typing import Annotated

import typer

from bertd import cores, errors
from bertd.cli import adapter_printing, durations, exits, facts, table, terminal

MOST_CALLERS = 4096
LEAST_CALLS_PER_S = 0.01
MOST_CALLS_PER_S = 100_000.0
MOST_INPUTS = 1024
MOST_CONNECTIONS = 256
LONGEST_DEADLINE_S = 300.0  # the daemon's own
DEFAULT_CALLERS = 32


class Method(enum.StrEnum):
    """What is asked of a model."""

    CLASSIFY = "classify"
    EMBED = "embed"
    TAG = "tag"


def bench(  # noqa: PLR0913 (a verb's options are its parameters)
    target: Annotated[str, typer.Argument(metavar="MODEL[/ADAPTER]")] = "",
    *,
    peak: Annotated[
        bool, typer.Option("--peak", help="Measure this machine's matrix peak; needs no daemon.")
    ] = False,
    server: Annotated[
        str, typer.Option(metavar="ADDR", help="The daemon, if not where verbs look for it.")
    ] = "",
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_CALLERS,
            help="Closed loop: so many callers, each asks again when it has its answer.",
            show_default=str(DEFAULT_CALLERS),
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=LEAST_CALLS_PER_S,
            max=MOST_CALLS_PER_S,
            help="Open loop: so many calls a second, whether or not answers come.",
        ),
    ] = None,
    duration: Annotated[str, typer.Option(metavar="DURATION", help="How long to measure.")] = "12s",
    warm_up: Annotated[
        str, typer.Option(metavar="DURATION", help="Load before that, not measured.")
    ] = "2s",
    deadline: Annotated[
        str, typer.Option(metavar="DURATION", help="Of every call, from when it is due.")
    ] = "5s",
    texts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A text on each line, instead of bertd's sentences."),
    ] = None,
    lengths: Annotated[
        str,
        typer.Option(
            metavar="TOKENS",
            help="Texts of so many tokens instead: 16, uniform:6-256 or lognormal:24,0.6.",
        ),
    ] = "",
    inputs: Annotated[int, typer.Option(min=1, max=MOST_INPUTS, help="Texts in each call.")] = 1,
    adapters: Annotated[
        str,
        typer.Option(metavar="A,B,C", help="Each call names one of these at random; or: all."),
    ] = "",
    method: Annotated[Method, typer.Option(help="What to ask for.")] = Method.CLASSIFY,
    connections: Annotated[
        int, typer.Option(min=1, max=MOST_CONNECTIONS, help="Calls take them in turn.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Of arrivals, texts and adapters.")] = 0,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Draw latency over time and its distribution."),
    ] = None,
    output: adapter_printing.Format = adapter_printing.Output.TABLE,
) -> None:
    """Put load on a model and print what becomes of it: latency, goodput, refusals.

    Exit code 1 if a call failed; refused and expired calls are results.
    """
    if peak:
        if target:
            raise errors.InvalidRequest("`--peak` measures the machine: it must have no MODEL")
        return measure_peak()
    if not target:
        raise errors.InvalidRequest(
            "`bertd bench` must be told what to measure", hint="MODEL, MODEL/ADAPTER or --peak"
        )
    from bertd.cli import load  # noqa: PLC0415 (grpc and numpy take their time)

    if concurrency is not None and rate is not None:
        raise errors.InvalidRequest("only one of `--concurrency` and `--rate` must be given")
    asked = load.Asked(
        target=target,
        server=server,
        concurrency=0 if rate else concurrency or DEFAULT_CALLERS,
        rate=rate or 0.0,
        duration_s=_positive(duration, "--duration"),
        warm_up_s=durations.seconds(warm_up, "--warm-up"),
        deadline_s=_positive(deadline, "--deadline", most_s=LONGEST_DEADLINE_S),
        texts=texts,
        lengths=lengths,
        inputs=inputs,
        adapters=adapters,
        method=method.value,
        connections=connections,
        seed=seed,
        plot=plot,
        as_json=output is adapter_printing.Output.JSON,
    )
    if load.bench(asked):
        raise typer.Exit(exits.FAILED)


def measure_peak() -> None:
    """Prints operations per second by precision, on one core and on all, and what computes.

    Raises:
        errors.InvalidRequest: torch is not installed.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
    try:
        from bertd.engine import peak as measuring  # noqa: PLC0415 (torch takes a second)
        from bertd.kernels import native  # noqa: PLC0415
    except ImportError as error:
        raise errors.InvalidRequest(
            f"the engine is missing: {error}", hint="pip install 'bertd[engine]'"
        ) from None
    usable = cores.usable()
    measuring.alone()
    one, every = measuring.measure(measuring.TABLE_BUDGET_S), measuring.measure_all(usable)
    rows = [
        (name, f"{facts.rate(one[name])}op/s", f"{facts.rate(every[name])}op/s") for name in one
    ]
    all_cores = f"ALL {usable} CORES" if usable > 1 else "THE USABLE CORE"
    terminal.out(table.render(("PRECISION", "ONE CORE", all_cores), rows))
    library = native.open_library()
    kernels = library.isa if library else f"torch, for lack of bertd's own: {native.reason()}"
    terminal.out(f"\nprocessor: {measuring.processor()}\nkernels:   {kernels}")


def _positive(text: str, option: str, *, most_s: float = float("inf")) -> float:
    seconds = durations.seconds(text, option)
    if not 0 < seconds <= most_s:
        limit = "" if most_s == float("inf") else f" and at most {most_s:g} s"
        raise errors.InvalidRequest(f"`{option}` must be longer than 0{limit}")
    return seconds
