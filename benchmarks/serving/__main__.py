"""`python -m benchmarks.serving --models bert-base --contenders bertd triton --loads closed-64`."""

import argparse
import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.engine import __main__ as engines
from benchmarks.engine import machine, turns
from benchmarks.engine import results as files
from benchmarks.serving import alone, blocks, contenders, loads, report, results, serving
from benchmarks.serving import texts as corpus

QUICK_BLOCK_S, QUICK_OVERLOAD_S = 3.0, 8.0
QUICK_LOADS = ("closed-1", "closed-64", "closed-8x16", "open-0.5x", "open-2x", "overload-2x")
AT_ONCE = 4  # calls that are checked together


def main() -> None:
    """Measures block by block, and writes the results after each."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers end with us
    options = _options()
    if options.report:
        _print_report(options.report, json.loads(options.report.read_text()))
        return
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("a core for the server and one for the load: there must be two")
    path = options.out / f"serving-{datetime.datetime.now(datetime.UTC).date()}.json"
    result = _begin(path)
    for model in options.models:
        _prepare(options, model)
        with contextlib.ExitStack() as stack:
            result = _measure(options, model, path, result, stack)
    _print_report(path, result)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving")
    add = parser.add_argument
    add("--models", nargs="+", choices=loads.MODELS, default=list(loads.MODELS))
    add("--contenders", nargs="+", choices=contenders.NAMES, default=list(contenders.USUAL))
    add("--loads", nargs="+", choices=loads.NAMES, default=[])
    add("--block-seconds", type=float, default=30, help="of a load, for each contender")
    add("--overload-seconds", type=float, default=60, help="at twice bertd's peak")
    add("--rounds", type=int, default=blocks.ROUNDS, help="of a block, where turns may be short")
    add("--quick", action="store_true", help="a look: MiniLM, a few loads, nothing recorded")
    add("--out", type=Path, default=engines.RESULTS)
    add("--cache", type=Path, default=engines.CACHE, help="where converted models are kept")
    add("--peers-python", type=Path, default=engines.PEERS, help="interpreter that converts them")
    add("--report", type=Path, help="only write tables and plots of these results again")
    options = parser.parse_args()
    if options.quick:
        options.models = ["minilm"] if len(options.models) == len(loads.MODELS) else options.models
        options.loads = options.loads or list(QUICK_LOADS)
        options.rounds, options.block_seconds = 1, QUICK_BLOCK_S
        options.overload_seconds = QUICK_OVERLOAD_S
        options.out = options.cache / "quick"
    return options


def _begin(path: Path) -> results.Result:
    """An empty result, or what was measured that day: a row takes the place of its like."""
    command = " ".join(["python -m benchmarks.serving", *sys.argv[1:]])
    if path.exists():
        result: results.Result = json.loads(path.read_text())
        return result | {"command": f"{result['command']}; {command}"}
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": command,
        "machine": machine.describe(1, {}),
        "versions": {},
        "rows": [],
        "summary": {},
        "left_out": [],
    }


def _prepare(options: argparse.Namespace, model: str) -> None:
    """Makes what servers serve, unless that was done before."""
    engines.prepare(options, model)
    folder = options.cache / "serving" / model
    base = options.cache / model / "checkpoint"
    if not folder.exists():
        _run(sys.executable, "-m", "benchmarks.serving.models", base, folder)
    if not (folder / "infinity").exists():
        _run(options.peers_python, "-m", "benchmarks.serving.peers.prepare", folder)


def _run(*command: object) -> None:
    print(*command, file=sys.stderr)
    subprocess.run([str(part) for part in command], check=True)


def _measure(
    options: argparse.Namespace,
    model: str,
    path: Path,
    result: results.Result,
    stack: contextlib.ExitStack,
) -> results.Result:
    """Starts everybody on a model, compares their answers, and measures load by load."""
    made = corpus.make(options.cache / model / "checkpoint" / "tokenizer.json")
    servers, left_out = _start(options, model, made.texts, stack)
    checked = _check(options, model, servers, left_out)
    versions = {name: contenders.versions(name) for name in servers}
    engine = None
    if model != loads.TABLE_ONLY and contenders.BERTD in servers:
        with _noted(contenders.ENGINE, model, left_out):
            engine = stack.enter_context(
                alone.started(options.cache / model, made.rows, serving.SERVER_CORE)
            )
            versions[contenders.ENGINE] = engine.versions
    result["versions"] = result["versions"] | versions
    result = results.put(result, checked, left_out)
    limits = blocks.Limits(
        block_s=options.block_seconds, overload_s=options.overload_seconds, rounds=options.rounds
    )
    for load in loads.of(model):
        if options.loads and load.name not in options.loads:
            continue
        began = time.perf_counter()
        peaks = {name: results.peak(result, model, name) for name in servers}
        rows, failed = blocks.measure(servers, engine, model, load, limits, peaks)
        result = results.put(result, rows, failed)
        files.save(path, result)
        took = time.perf_counter() - began
        print(f"{model} {load.name}: {len(rows)} contenders, {took:.0f} s", file=sys.stderr)
    return result


def _start(
    options: argparse.Namespace, model: str, texts: Sequence[str], stack: contextlib.ExitStack
) -> tuple[dict[str, serving.Server], list[dict[str, str]]]:
    """Starts the contenders that can; says why of the others."""
    scratch = Path(stack.enter_context(TemporaryDirectory(prefix="bertd-serving-")))
    servers: dict[str, serving.Server] = {}
    left_out: list[dict[str, str]] = []
    deadline_s = loads.DEADLINES_S[model]
    for name in options.contenders:
        began = time.perf_counter()
        with _noted(name, model, left_out):
            server = serving.started(name, model, options.cache, scratch, texts, deadline_s)
            servers[name] = stack.enter_context(server)
            took, size = time.perf_counter() - began, servers[name].tree.resident_bytes() / 2**20
            print(f"{name} on {model}: starts in {took:.0f} s, {size:,.0f} MiB", file=sys.stderr)
    return servers, left_out


@contextlib.contextmanager
def _noted(name: str, model: str, left_out: list[dict[str, str]]) -> Iterator[None]:
    """A contender that cannot run is left out; the others go on."""
    try:
        yield
    except (turns.Failed, OSError) as failure:
        print(f"{name} on {model}: {failure}", file=sys.stderr)
        left_out.append({"model": model, "contender": name, "reason": str(failure)})


def _check(
    options: argparse.Namespace,
    model: str,
    servers: dict[str, serving.Server],
    left_out: list[dict[str, str]],
) -> list[dict[str, Any]]:
    """How far everybody's answers are from those of transformers in fp32.

    Whoever does not answer takes no further part.
    """
    expected = np.load(options.cache / "serving" / model / "answers.npz")
    rows = []
    for name in list(servers):
        kind = contenders.wire(name).answers
        server = servers.pop(name)
        with _noted(name, model, left_out):
            given = server.answers(len(expected[kind]), AT_ONCE)
            servers[name] = server
        if name not in servers:
            continue
        off = np.abs(given - expected[kind])
        row = {
            "model": model,
            "load": "answers",
            "contender": name,
            "kind": kind,
            "max_difference": float(off.max()),
            "mean_difference": float(off.mean()),
            "rounds": {},
        }
        if kind == "embeddings":
            row["min_cosine"] = float((given * expected[kind]).sum(axis=1).min())
        print(f"{name} on {model}: {row}", file=sys.stderr)
        rows.append(row)
    return rows


def _print_report(path: Path, result: Mapping[str, Any]) -> None:
    for written in (path, *report.write(path, result)):
        print(written)


if __name__ == "__main__":
    main()
