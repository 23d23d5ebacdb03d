"""A block: one model, one load, all contenders in turn, round by round."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.engine.turns import Failed
from benchmarks.serving import alone, contenders, loads, serving
from benchmarks.serving.transports import Outcome

ROUNDS = 3  # of closed loops and bursts; an open load shows what it does in one long turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long loads last."""

    block_s: float  # of a contender, over all rounds
    overload_s: float
    rounds: int = ROUNDS


def measure(
    servers: Mapping[str, serving.Server],
    engine: alone.Engine | None,
    model: str,
    load: loads.Load,
    limits: Limits,
    peaks: Mapping[str, float],
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Rows of this block, and those who failed in it, with the reason.

    Args:
        servers: who serves, by name.
        engine: bertd's engine alone, where it is measured.
        model: what is served.
        load: what they are asked.
        limits: how long.
        peaks: texts per second that each reached in closed loops; an open load needs them.
    """
    rounds = limits.rounds if load.kind in ("closed", "burst") else 1
    seconds = limits.overload_s if load.kind == "overload" else limits.block_s / rounds
    found: dict[str, dict[str, loads.Figures]] = {}
    failed: dict[str, str] = {}
    rng = np.random.default_rng(0)
    playing = [name for name in servers if _plays(name, load, peaks)]
    for number in range(rounds):
        for name in map(str, rng.permutation(playing)):
            if name in failed:
                continue
            try:
                figures = _turn(servers[name], model, load, seconds, peaks.get(name, 0.0), number)
                found.setdefault(name, {})[str(number)] = figures
            except Failed as failure:
                failed[name] = f"{load.name}: {failure}"
                print(f"{name} on {model}, {failed[name]}", file=sys.stderr)
        if engine is not None and load.name in alone.BATCHES:
            figures = engine.figures(load.name, seconds)
            found.setdefault(contenders.ENGINE, {})[str(number)] = figures
    place = {"model": model, "load": load.name}
    made = [
        {**place, "contender": name, **loads.medians(rounds), "rounds": rounds}
        for name, rounds in found.items()
    ]
    return made, [{"model": model, "contender": n, "reason": why} for n, why in failed.items()]


def _plays(name: str, load: loads.Load, peaks: Mapping[str, float]) -> bool:
    if load.texts > 1 and not contenders.takes_many(name):
        return False
    if load.kind == "overload" and name != contenders.BERTD:
        return False
    return load.kind in ("closed", "burst") or peaks.get(name, 0.0) > 0


def _turn(
    server: serving.Server,
    model: str,
    load: loads.Load,
    seconds: float,
    peak: float,
    number: int,
) -> loads.Figures:
    deadline_s = loads.DEADLINES_S[model]
    told = loads.order(load, seconds, peak, deadline_s, seed=number)
    kind = "open" if load.kind == "overload" else load.kind
    record = server.turn(kind, load.texts, **told)
    figures = loads.figures(load, record, told, deadline_s)
    outcomes = [call[2] for call in record["calls"]]
    if Outcome.FAILED in outcomes:
        print(f"{server.name} on {model}, {load.name}: {record['words']}", file=sys.stderr)
    if load.kind in ("closed", "burst") and not figures["answered"]:
        raise Failed(f"nothing was answered in time, of {len(outcomes)} calls {record['words']}")
    if load.kind == "burst" and any(outcomes):
        raise Failed(f"not all of a burst was answered: {record['words']}")
    ended = load.texts * max(1, len(record["calls"]))
    return figures | {
        "front_cpu_ms": 1000 * record["front_s"] / ended,
        "server_cpu_ms": 1000 * record["server_s"] / ended,
        "generator_share": record["core_share"],
        "sent_late_p99_ms": 1000 * record["late_s"],
    }
