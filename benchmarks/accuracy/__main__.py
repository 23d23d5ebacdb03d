"""`python -m benchmarks.accuracy --data FOLDER --ner FOLDER --precision bf16 --precision int8`."""

import argparse
import datetime
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.accuracy import measuring, report, tasks
from bertd import cores
from bertd.model import encoder

RESULTS = Path("benchmarks/results")
PRECISIONS = ("bf16", "int8")


def main() -> int:
    """Measures what there is data for; 1 if a bar is missed, 2 if nothing can be measured."""
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        found, missing = tasks.find(options.data, options.ner, Path(scratch))
        for what in missing:
            print(f"not measured: {what}", file=sys.stderr)
        if not found:
            return 2
        records: list[dict[str, Any]] = []
        bases: list[dict[str, Any]] = []
        for precision in options.precision:
            measured = measuring.measure(found, precision, options.against)
            records += measured.tasks
            bases += measured.bases
    now = datetime.datetime.now(datetime.UTC)
    result = {
        "date": now.date().isoformat(),
        "command": _command(options),
        **report.hardware(cores.usable()),
        "against": options.against,
        "tasks": records,
        "pooled": report.pooled(records),
        "bases": bases,
        "missing": missing,
    }
    result["bars"] = report.bars(result)
    for path in report.write(options.out, f"accuracy-{now:%Y%m}", result):
        print(path)
    print(report.markdown(result))
    return int(not all(bar["met"] for bar in result["bars"]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder with the data sets as published: sst2, trec, snips, cola, wnut17",
    )
    parser.add_argument(
        "--ner", type=Path, help="folder of a BERT-base tagger of CoNLL-2003's tags"
    )
    choices = encoder.PRECISIONS
    parser.add_argument("--precision", action="append", choices=choices, help="both if not given")
    parser.add_argument("--against", choices=choices, default="fp32")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.precision = options.precision or PRECISIONS
    return options


def _command(options: argparse.Namespace) -> str:
    """What to run for the same results, wherever the folders are."""
    ner = " --ner FOLDER" if options.ner else ""
    precisions = "".join(f" --precision {name}" for name in options.precision)
    against = f" --against {options.against}"
    return f"python -m benchmarks.accuracy --data FOLDER{ner}{precisions}{against}"


if __name__ == "__main__":
    raise SystemExit(main())
