"""Plays scenarios: every policy against the same arrivals."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.scheduling import engine, own, rivals, scores
from benchmarks.scheduling.scenarios import MODEL, Scenario
from benchmarks.scheduling.service import Service
from benchmarks.scheduling.traces import Call
from bertd.batching import policy

Make = Callable[[Scenario], engine.Policy]
SEED = 5


def _each(make: Callable[[Scenario, Service], engine.Policy]) -> Make:
    """A queue for each model of the scenario."""

    def made(scenario: Scenario) -> engine.Policy:
        device = scenario.device
        queues = {model: make(scenario, each) for model, each in device.services.items()}
        return rivals.Turns(queues, device.lanes) if len(queues) > 1 else queues[MODEL]

    return made


def _fifo(scenario: Scenario, *, drops_expired: bool = False) -> rivals.Fifo:
    places = math.inf if drops_expired else 512
    return rivals.Fifo(
        most_rows=scenario.rule_rows, places=places, padded=False, drops_expired=drops_expired
    )


def _codel(scenario: Scenario, service: Service) -> engine.Policy:
    """Its target needs to know what a batch takes."""
    batch_s = scenario.rule_rows / service.capacity_per_s([scenario.mean_tokens])
    return rivals.CodelLifo(scenario.rule_rows, batch_s)


def bertd(scenario: Scenario, *, knows: bool = False, max_delay_s: float = 0.0) -> own.Bertd:
    """bertd with the limits of the scenario."""
    limits = policy.Limits(
        max_tokens=scenario.max_tokens, max_rows=scenario.max_rows, max_delay_s=max_delay_s
    )
    options = own.Options(limits=limits, max_queue_delay_s=scenario.max_queue_delay_s, knows=knows)
    return own.Bertd(scenario.device.services, scenario.device.lanes, options)


POLICIES: Mapping[str, Make] = {
    "bertd": bertd,
    "fifo-512": _each(lambda scenario, _: _fifo(scenario)),
    "fifo-drop": _each(lambda scenario, _: _fifo(scenario, drops_expired=True)),
    "fifo-predict": _each(
        lambda scenario, service: rivals.Predicted(
            scenario.rule_rows, service, scenario.device.lanes
        )
    ),
    "edf": _each(lambda scenario, _: rivals.Edf(scenario.rule_rows)),
    "codel-lifo": _each(_codel),
    "tei": _each(lambda *_: rivals.tei()),
    "infinity": _each(lambda *_: rivals.Infinity()),
    "triton": _each(lambda *_: rivals.triton()),
    "tassadar": _each(lambda *_: rivals.tassadar()),
    "batch-inference": _each(lambda *_: rivals.batch_inference()),
}


def play(
    scenario: Scenario, policies: Mapping[str, Make], *, seed: int = SEED
) -> Iterator[dict[str, Any]]:
    """A record for each policy at each load."""
    for load in scenario.loads:
        trace = scenario.trace(load, seed)
        for name, make in policies.items():
            outcome = engine.run(trace, make(scenario), scenario.device, seed=seed)
            yield {
                "scenario": scenario.name,
                "policy": name,
                "load": load,
                **_scores(scenario, trace, outcome),
            }


def _scores(scenario: Scenario, trace: Sequence[Call], outcome: engine.Outcome) -> dict[str, Any]:
    def score(chosen: scores.Chosen) -> scores.Score:
        return scores.score(
            trace, outcome, chosen=chosen, from_s=scenario.warm_s, until_s=scenario.until_s,
            device=scenario.device,
        )  # fmt: skip

    return {
        **score(lambda _: True),
        "wasted": outcome.wasted_s / outcome.busy_s if outcome.busy_s else 0.0,
        "rows_per_batch": sum(outcome.batches) / max(1, len(outcome.batches)),
        "groups": {name: score(chosen) for name, chosen in scenario.groups.items()},
    }
