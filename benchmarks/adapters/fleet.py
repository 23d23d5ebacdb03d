"""A daemon with thousands of adapters: `python -m benchmarks.adapters.fleet --adapters 10000`.

Writes adapter files, starts a daemon, and measures what an operator and a caller see: the apply of
a glob over all of them, the same again, the time until all lie in memory, resident memory,
throughput of one adapter against a random mix (interleaved windows, one text a call), and the time
from a new file to its first answer.
"""

import argparse
import asyncio
import datetime
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bertd
from benchmarks import daemon
from benchmarks.adapters import bases, pool, report, timing
from benchmarks.engine.machine import cpu
from bertd.checkpoint import adapter_file
from bertd.client import admin
from bertd.engine import session

MODEL = "fleet"
MANIFEST = """
apiVersion: bertd.dev/v1
kind: Model
metadata: {{name: fleet}}
spec:
  base: {{source: "{base}"}}
  adapterMemory: {memory}
  batching: {{maxQueueDelay: 10s}}
  adapters: [{{source: "{files}/*.safetensors"}}]
"""
CALLERS = 16
WINDOW_S = 4.0
SETTLED_S = 150.0  # a status tells at the end of loading, and every minute
WARM_UP_WINDOWS = 2
ALONE = 40  # calls
DISTINCT = 256  # different random adapters; files repeat their values and differ in one bias
TEXT_WORDS = (4, 18)  # CoLA's sentences, special tokens left out


def main() -> None:
    """Measures one base and writes its results."""
    options = parser().parse_args()
    torch.set_num_threads(1)
    with bases.place(options.base) as source, tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tenants = folder / "tenants"
        tenants.mkdir()
        spare = write(source, tenants, options.adapters, options.spare)
        manifest = folder / "manifest.yaml"
        text = MANIFEST.format(base=source, files=tenants, memory=options.memory)
        manifest.write_text(text)
        with daemon.running(folder, "--lanes", str(options.lanes)) as front:
            measured = measure(front.pid, manifest, tenants, spare, options)
    now = datetime.datetime.now(datetime.UTC)
    result = {
        "base": options.base,
        "adapters": options.adapters,
        "lanes": options.lanes,
        "date": now.date().isoformat(),
        "cpu": cpu().strip('"'),
        "torch": torch.__version__,
        **measured,
    }
    name = f"fleet-{options.base}-{options.adapters}-{now:%Y%m}"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / f"{name}.md").write_text(markdown(result))
    print(markdown(result))


def write(source: str, folder: Path, count: int, spare: int) -> list[Path]:
    """Writes `count` files to `folder` and `spare` beside it, all different; returns the latter."""
    opened = session.Session.open(source)
    described = opened.base.description
    models = list(itertools.islice(pool.random_adapters(opened, DISTINCT), DISTINCT))
    paths = [folder / f"t{n:06}.safetensors" for n in range(count)]
    paths += [folder.parent / f"new{n:03}.safetensors" for n in range(spare)]
    for number, path in enumerate(paths):
        one = models[number % DISTINCT]
        first = np.full_like(one.offsets["layers.0.query.bias"], number / len(paths))
        data = adapter_file.encode(
            shape=described.shape,
            base_digest=described.digest,
            tokenizer_digest=described.tokenizer_digest,
            head=one.info.head,
            label_names=one.info.label_names,
            offsets={**one.offsets, "layers.0.query.bias": first},
            head_tensors=one.head,
            dtype="F16",
        )
        path.write_bytes(data)
    return paths[count:]


def measure(
    front: int, manifest: Path, tenants: Path, spare: list[Path], options: argparse.Namespace
) -> dict[str, Any]:
    """Everything, in the order in which an operator would meet it."""
    result: dict[str, Any] = {"file_bytes": next(tenants.iterdir()).stat().st_size}
    result["apply_s"] = daemon.apply(manifest)
    began_s = time.perf_counter()
    with admin.AdminClient() as owner:
        worker = _warm(owner, options.adapters)
        result["in_memory_s"] = time.perf_counter() - began_s
        facts = owner.get("Model", MODEL).status.details
    result["slot_bytes"] = facts["slotBytes"]
    result["in_memory"] = facts["adaptersInMemory"]
    result["reapply_s"] = [daemon.apply(manifest) for _ in range(5)]
    result["front_kib"] = daemon.vital_signs(front)["resident KiB"]
    result["worker_kib"] = daemon.vital_signs(worker)["resident KiB"]
    names = [path.stem for path in sorted(tenants.iterdir())]
    result |= asyncio.run(serve(names, tenants, spare, options))
    result["worker_after_kib"] = daemon.vital_signs(worker)["resident KiB"]
    return result


def _warm(owner: admin.AdminClient, adapters: int) -> int:
    """Waits until nothing more is loaded in the background; returns the worker's pid."""
    most, since_s = 0, time.perf_counter()
    while most < adapters and time.perf_counter() - since_s < SETTLED_S:
        facts = owner.get("Model", MODEL).status.details
        now = int(str(facts.get("adaptersInMemory", 0)))
        if now > most:
            most, since_s = now, time.perf_counter()
        time.sleep(0.5)
    return int(str(owner.get("Model", MODEL).status.details["workerPid"]))


async def serve(
    names: list[str], tenants: Path, spare: list[Path], options: argparse.Namespace
) -> dict[str, Any]:
    """Throughput of one against many, and new files to their first answers."""
    rng = np.random.default_rng(0)
    async with bertd.AsyncClient() as client:
        speeds = await throughput(client, names, options.windows, rng)
        one, many = (np.array(speeds[kind]) for kind in ("one", "many"))
        alone = [await call(client, names, rng) for _ in range(ALONE)]
        first = [await add(client, path, tenants, rng) for path in spare]
    ratio = timing.ratio(many, one)
    return {
        "windows": options.windows,
        "one_rows_per_s": float(np.median(one)),
        "many_rows_per_s": float(np.median(many)),
        "speed_against_one": {"median": ratio.median, "low": ratio.low, "high": ratio.high},
        "call_alone_ms": 1000 * float(np.median(alone)),
        "first_answer_ms": {
            "p50": 1000 * float(np.median(first)),
            "worst": 1000 * max(first),
            "files": len(first),
        },
    }


async def throughput(
    client: bertd.AsyncClient, names: list[str], windows: int, rng: np.random.Generator
) -> dict[str, list[float]]:
    """Answers per second in each window; the two kinds take turns, the order is drawn."""
    speeds: dict[str, list[float]] = {"one": [], "many": []}
    for number in range(windows + WARM_UP_WINDOWS):
        for kind in rng.permutation(["one", "many"]):
            chosen = names if kind == "many" else [str(rng.choice(names))]
            speed = await window(client, chosen, rng)
            if number >= WARM_UP_WINDOWS:
                speeds[str(kind)].append(speed)
    return speeds


async def window(client: bertd.AsyncClient, names: list[str], rng: np.random.Generator) -> float:
    """Answers per second of a closed loop of callers."""
    counts = [0] * CALLERS
    until_s = time.perf_counter() + WINDOW_S

    async def caller(number: int) -> None:
        while time.perf_counter() < until_s:
            adapter = names[int(rng.integers(len(names)))]
            await client.classify([text(rng)], model=MODEL, adapter=adapter)
            counts[number] += 1

    began_s = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    return sum(counts) / (time.perf_counter() - began_s)


async def call(client: bertd.AsyncClient, names: list[str], rng: np.random.Generator) -> float:
    """Seconds of one call of an adapter in memory, with nothing else to do."""
    adapter, words = names[int(rng.integers(len(names)))], text(rng)
    began_s = time.perf_counter()
    await client.classify([words], model=MODEL, adapter=adapter)
    return time.perf_counter() - began_s


async def add(
    client: bertd.AsyncClient, path: Path, tenants: Path, rng: np.random.Generator
) -> float:
    """Seconds from a new file under the glob to its first answer; nothing is applied."""
    hidden = tenants / f".{path.name}"
    shutil.copy(path, hidden)
    words = text(rng)
    began_s = time.perf_counter()
    hidden.rename(tenants / path.name)
    await client.classify([words], model=MODEL, adapter=path.stem)
    return time.perf_counter() - began_s


def text(rng: np.random.Generator) -> str:
    """Random words: one token each for BERT-base's stand-in, two or so for MiniLM."""
    low, high = TEXT_WORDS
    return " ".join(_words(rng, int(rng.integers(low, high))))


def _words(rng: np.random.Generator, count: int) -> Iterator[str]:
    return (bases.WORDS[int(n)] for n in rng.integers(0, len(bases.WORDS), count))


def markdown(result: dict[str, Any]) -> str:
    """The measured values as a table."""
    ratio, first = result["speed_against_one"], result["first_answer_ms"]
    rows = [
        ("apply of the glob, until all are Ready", f"{result['apply_s']:.1f} s"),
        ("the same apply again", f"{np.median(result['reapply_s']):.2f} s"),
        ("all in memory after that", f"{result['in_memory_s']:.0f} s ({result['in_memory']:,})"),
        ("one file", f"{result['file_bytes']:,} bytes"),
        ("one adapter in the table", f"{result['slot_bytes']:,} bytes"),
        ("resident: front, worker", f"{_mib(result['front_kib'])}, {_mib(result['worker_kib'])}"),
        ("one adapter", f"{result['one_rows_per_s']:,.1f} answers/s"),
        ("random mix of all", f"{result['many_rows_per_s']:,.1f} answers/s"),
        (
            "speed of the mix against one (95 % interval)",
            f"{ratio['median']:.3f} ({ratio['low']:.3f} - {ratio['high']:.3f})",
        ),
        ("a call alone, its adapter in memory", f"p50 {result['call_alone_ms']:.1f} ms"),
        (
            f"new file to first answer, {first['files']} files",
            f"p50 {first['p50']:.1f} ms, worst {first['worst']:.1f} ms",
        ),
    ]
    head = (
        f"# {result['adapters']:,} adapters on {result['base']} in one daemon, {result['date']}\n\n"
        f"{result['cpu']}, {result['lanes']} lane(s), torch {result['torch']}, fp32; {CALLERS} "
        f"callers on the same machine, one text a call, {result['windows']} windows of "
        f"{WINDOW_S:g} s each.\n\n"
    )
    return head + "\n".join(report.table(("what", "measured"), [list(row) for row in rows])) + "\n"


def _mib(kib: int) -> str:
    return f"{kib / 1024:,.0f} MiB"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.adapters.fleet")
    made.add_argument("--base", choices=bases.NAMES, default="bert-base")
    made.add_argument("--adapters", type=int, default=10_000)
    made.add_argument("--spare", type=int, default=20, help="files added while it serves")
    made.add_argument("--memory", default="12GiB", help="adapterMemory")
    made.add_argument("--windows", type=int, default=12)
    made.add_argument("--lanes", type=int, default=1)
    made.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return made


if __name__ == "__main__":
    main()
