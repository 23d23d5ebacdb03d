"""`python -m benchmarks.scheduling`: all scenarios; with `--only`, some tables and no plots."""

import argparse
import datetime
from pathlib import Path
from typing import Any

from benchmarks.scheduling import playing, report
from benchmarks.scheduling.scenarios import SCENARIOS, Scenario

RESULTS = Path("benchmarks/results")


def main() -> None:
    """Plays and writes."""
    options = _options()
    chosen = [each for each in SCENARIOS if not options.only or each.name in options.only]
    now = datetime.datetime.now(datetime.UTC)
    rows = [
        row for each in chosen for row in playing.play(each, playing.POLICIES, seed=options.seed)
    ]
    result = {
        "date": now.date().isoformat(),
        "command": f"python -m benchmarks.scheduling --seed {options.seed}",
        "seed": options.seed,
        "scenarios": [_facts(each) for each in chosen],
        "rows": rows,
    }
    if not options.only:
        for path in report.write(options.out, f"scheduling-{now:%Y%m}", result):
            print(path)
    else:
        print(report.markdown(result))


def _options() -> argparse.Namespace:
    names = [each.name for each in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduling")
    parser.add_argument("--only", nargs="*", choices=names, default=[])
    parser.add_argument("--seed", type=int, default=playing.SEED)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def _facts(scenario: Scenario) -> dict[str, Any]:
    return {
        "name": scenario.name,
        "title": scenario.title,
        "capacity_per_s": scenario.capacity_per_s,
        "lanes": scenario.device.lanes,
    }


if __name__ == "__main__":
    main()
