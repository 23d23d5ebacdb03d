"""`make gpu`, or `python -m benchmarks.gpu`: needs a GPU; without one it says so and ends.

Prints a Markdown table and writes it, and JSON, to `benchmarks/results/gpu-<date>`.
"""

import argparse
import datetime
import platform
from pathlib import Path

import torch
import transformers

from benchmarks.adapters import bases
from benchmarks.engine import machine
from benchmarks.gpu import report, timing
from bertd.engine import devices, peak

RESULTS = Path("benchmarks/results")
LENGTHS = (32, 128, 512)
ADAPTERS = (1, 64, 10_000)


def main() -> None:
    """Measures every precision that the GPU has, and writes the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=16_384, help="of a batch")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU here: nothing was measured.")
        return
    place = torch.device(options.device)
    peaks = devices.peak(place)
    facts = _facts(place) | {"peak": peaks}
    with bases.place("bert-base") as source:
        rows = measure(source, options, peaks)
    report.write(RESULTS / f"gpu-{facts['date']}", facts, rows)
    print(report.markdown(facts, rows))


def measure(source: str, options: argparse.Namespace, peaks: dict[str, float]) -> list[report.Row]:
    """All workloads by all engines, which take turns."""
    contenders = {"transformers-bf16": timing.open_transformers(source, options.device)}
    sessions = [
        timing.open_bertd(source, precision, options.device, max(ADAPTERS)) for precision in peaks
    ]
    for opened in sessions:
        contenders |= timing.contenders_of(opened, ADAPTERS)
    linear, squared = peak.operations(sessions[0].base.description.shape)
    rows = []
    for workload in workloads(options.tokens):
        operations = workload.tokens * (linear + squared * workload.length)
        for name, times in timing.take_turns(contenders, workload, options.rounds).items():
            rate = peaks["fp8" if "-fp8" in name else "bf16"]
            rows.append(report.row(name, workload, times, operations=operations, peak=rate))
    return rows


def workloads(tokens: int) -> list[timing.Workload]:
    """A lone short row, and batches of about so many tokens of every length."""
    uniform = [timing.Workload(length=n, rows=max(1, tokens // n)) for n in LENGTHS]
    return [timing.Workload(length=16, rows=1), *uniform]


def _facts(place: torch.device) -> dict[str, object]:
    major, minor = torch.cuda.get_device_capability(place)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {
            "gpu": torch.cuda.get_device_name(place),
            "capability": f"{major}.{minor}",
            "gpuBytes": torch.cuda.get_device_properties(place).total_memory,
            "cpu": machine.cpu(),
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "transformers": transformers.__version__,
        },
    }


if __name__ == "__main__":
    main()
