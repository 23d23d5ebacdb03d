"""`python -m benchmarks.adapters --base bert-base --adapters 10000 --rounds 40`."""

import argparse
import dataclasses
import datetime
from pathlib import Path

import torch

from benchmarks.adapters import bases, engine, pool, report
from benchmarks.engine.machine import cpu
from bertd.engine import loading, session

RESULTS = Path("benchmarks/results")


def main() -> None:
    """Measures one base and writes its results."""
    options = _options()
    torch.set_num_threads(options.threads)
    with bases.place(options.base) as source:
        opened = session.Session.open(source, precision=options.precision)
        slots, memory = pool.fill(opened, options.adapters)
        now = datetime.datetime.now(datetime.UTC)
        result = {
            "base": options.base,
            "precision": options.precision,
            "threads": options.threads,
            "date": now.date().isoformat(),
            "cpu": cpu().strip('"'),
            "torch": torch.__version__,
            "command": _command(options),
            "memory": dataclasses.asdict(memory),
            "curve": engine.curve(opened, slots, _counts(options.adapters), options.rounds),
            "ratio": engine.against_transformers(source, opened, slots, options.rounds),
        }
    name = f"adapters-{options.base}-{options.precision}-{now:%Y%m}"
    for path in report.write(options.out, name, result):
        print(path)
    print(report.markdown(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adapters")
    parser.add_argument("--base", choices=bases.NAMES, default="bert-base")
    parser.add_argument("--precision", choices=loading.PRECISIONS, default="fp32")
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def _command(options: argparse.Namespace) -> str:
    """What to run for the same results, wherever they were written."""
    given = {name: value for name, value in vars(options).items() if name != "out"}
    fields = " ".join(f"--{name} {value}" for name, value in given.items())
    return f"python -m benchmarks.adapters {fields}"


def _counts(most: int) -> list[int]:
    """1, 10, 100 ... up to `most`."""
    powers = [10**n for n in range(7) if 10**n < most]
    return [*powers, most]


if __name__ == "__main__":
    main()
