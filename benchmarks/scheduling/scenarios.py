"""What is played: devices, arrivals over a range of loads, and whose scores are looked at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from benchmarks.scheduling import traces
from benchmarks.scheduling.engine import Device, Stall
from benchmarks.scheduling.scores import Chosen
from benchmarks.scheduling.service import BERT_BASE, GPU, MINILM, Service

LOADS = (0.3, 0.6, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0)
# Tenants of the greedy trace: each is due a tenth of the device.
TENANTS = 10
MODEL, OTHER = "a", "b"
# Draws from which the mean cost of a row, and so the capacity, is taken.
CAPACITY_DRAWS = 20_000

Sources = Callable[[np.random.Generator, float, float], list[traces.Source]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One plot's worth of runs.

    `sources` draws what sends calls: from a generator, rows per second at capacity times the load,
    and the end in seconds. Scores are of calls that arrive after `warm_s`; `groups` are scored
    besides. `rule_rows` are the batches of rules without a server of their own: the power of two
    up to 128 that served fifo-predict and codel-lifo best from 0.9x to 2x, where both were tried
    (not in `extremes`, `calls` and the scenarios of two models or a stall).
    """

    name: str
    title: str
    device: Device
    lengths: traces.Lengths
    sources: Sources
    until_s: float = 24.0
    warm_s: float = 6.0
    loads: tuple[float, ...] = LOADS
    groups: Mapping[str, Chosen] = field(default_factory=dict)
    max_tokens: int = 4096
    max_rows: int = 256
    rule_rows: int = 16  # batches of rules that know of rows alone
    max_queue_delay_s: float = 0.5

    @property
    def capacity_per_s(self) -> float:
        """Rows per second of all lanes in full batches of this scenario's rows."""
        return self.device.services[MODEL].capacity_per_s(self._drawn(), self.device.lanes)

    @property
    def mean_tokens(self) -> int:
        """Tokens of a row, in the mean."""
        return round(sum(self._drawn()) / CAPACITY_DRAWS)

    def _drawn(self) -> list[int]:
        lengths: list[int] = self.lengths(np.random.default_rng(0), CAPACITY_DRAWS).tolist()
        return lengths

    def trace(self, load: float, seed: int) -> list[traces.Call]:
        """The calls at a load, the same for everybody."""
        rng = np.random.default_rng((seed, round(1000 * load)))
        rate = load * self.capacity_per_s
        return traces.draw(rng, self.sources(rng, rate, self.until_s))


def _device(service: Service, **more: object) -> Device:
    return Device(services={MODEL: service}, **more)  # type: ignore[arg-type]


def _steady(lengths: traces.Lengths, *spans_s: float, rows: int = 1) -> Sources:
    def sources(rng: np.random.Generator, rate: float, until_s: float) -> list[traces.Source]:
        times = traces.poisson(rng, rate / rows, until_s)
        return [
            traces.Source(times=times, lengths=lengths, spans_s=spans_s, rows=rows, model=MODEL)
        ]

    return sources


def _bursts(rng: np.random.Generator, rate: float, until_s: float) -> list[traces.Source]:
    times = traces.bursts(rng, rate, until_s)
    return [traces.Source(times=times, lengths=traces.cola, spans_s=(0.5,), model=MODEL)]


def _greedy(rng: np.random.Generator, rate: float, until_s: float) -> list[traces.Source]:
    """Nine tenants that share nine tenths of the rate, and one that sends ten tenths."""
    return [*_well_behaved(rng, rate, until_s), *_one(rng, "greedy", rate, until_s)]


def _modest(rng: np.random.Generator, rate: float, until_s: float) -> list[traces.Source]:
    """Ten tenants that share the rate."""
    return [*_well_behaved(rng, rate, until_s), *_one(rng, "greedy", rate / TENANTS, until_s)]


def _well_behaved(rng: np.random.Generator, rate: float, until_s: float) -> list[traces.Source]:
    return [
        source
        for number in range(TENANTS - 1)
        for source in _one(rng, f"tenant-{number}", rate / TENANTS, until_s)
    ]


def _one(rng: np.random.Generator, tenant: str, rate: float, until_s: float) -> list[traces.Source]:
    times = traces.poisson(rng, rate, until_s)
    return [
        traces.Source(times=times, lengths=traces.cola, spans_s=(1.0,), tenant=tenant, model=MODEL)
    ]


def _beside(share: float) -> Sources:
    """One model at a fixed share of the device, the other at the load, in its own rows."""

    def sources(rng: np.random.Generator, rate: float, until_s: float) -> list[traces.Source]:
        lengths = traces.cola(np.random.default_rng(0), CAPACITY_DRAWS).tolist()
        own = share * BERT_BASE.capacity_per_s(lengths)
        other = rate / BERT_BASE.capacity_per_s(lengths) * MINILM.capacity_per_s(lengths)
        return [
            traces.Source(
                times=traces.poisson(rng, own, until_s),
                lengths=traces.cola, spans_s=(1.0,), model=MODEL,
            ),
            traces.Source(
                times=traces.poisson(rng, other, until_s),
                lengths=traces.cola, spans_s=(1.0,), model=OTHER,
            ),
        ]  # fmt: skip

    return sources


def _others(call: traces.Call) -> bool:
    return call.tenant != "greedy"


SCENARIOS = (
    Scenario(
        name="poisson",
        title="BERT-base on one core, Poisson, CoLA lengths, 200 ms",
        device=_device(BERT_BASE),
        lengths=traces.cola,
        sources=_steady(traces.cola, 0.2),
    ),
    Scenario(
        name="minilm",
        title="MiniLM on two cores, Poisson, CoLA lengths, 100 ms",
        device=_device(MINILM, lanes=2),
        lengths=traces.cola,
        sources=_steady(traces.cola, 0.1),
        until_s=6.0,
        warm_s=2.0,
        rule_rows=64,
    ),
    Scenario(
        name="gpu",
        title="BERT-base on a GPU, Poisson, paragraphs, 50 ms",
        device=_device(GPU),
        lengths=traces.passages,
        sources=_steady(traces.passages, 0.05),
        until_s=1.5,
        warm_s=0.5,
        max_tokens=16_384,
        rule_rows=128,
    ),
    Scenario(
        name="bursts",
        title="BERT-base on one core, bursts of 4x, 500 ms",
        device=_device(BERT_BASE),
        lengths=traces.cola,
        sources=_bursts,
        until_s=46.0,
    ),
    Scenario(
        name="heavy",
        title="BERT-base on two cores, heavy-tailed lengths, 1 s",
        device=_device(BERT_BASE, lanes=2),
        lengths=traces.heavy,
        sources=_steady(traces.heavy, 1.0),
        groups={
            "short": lambda call: call.lengths[0] < 64,
            "long": lambda call: call.lengths[0] >= 256,
        },
    ),
    Scenario(
        name="deadlines",
        title="BERT-base on one core, half of the calls 200 ms, half 5 s",
        device=_device(BERT_BASE),
        lengths=traces.cola,
        sources=_steady(traces.cola, 0.2, 5.0),
        groups={
            "urgent": lambda call: call.deadline_s - call.arrival_s < 1,
            "patient": lambda call: call.deadline_s - call.arrival_s > 1,
        },
    ),
    Scenario(
        name="extremes",
        title="BERT-base on two cores, rows of 1 and 512 tokens in turn, 1 s",
        device=_device(BERT_BASE, lanes=2),
        lengths=traces.extremes,
        sources=_steady(traces.extremes, 1.0),
        until_s=66.0,
        rule_rows=4,
        groups={
            "short": lambda call: call.lengths[0] == 1,
            "long": lambda call: call.lengths[0] > 1,
        },
    ),
    Scenario(
        name="calls",
        title="BERT-base on one core, 16 texts a call, 1 s",
        device=_device(BERT_BASE),
        lengths=traces.cola,
        sources=_steady(traces.cola, 1.0, rows=16),
    ),
    Scenario(
        name="modest",
        title="BERT-base on one core, ten tenants of equal rate, 1 s",
        device=_device(BERT_BASE),
        lengths=traces.cola,
        sources=_modest,
        until_s=66.0,
        loads=(0.3, 0.5, 0.7, 0.9),
        groups={"others": _others},
    ),
    Scenario(
        name="greedy",
        title="BERT-base on one core, nine tenants and one at 10x its share, 1 s",
        device=_device(BERT_BASE),
        lengths=traces.cola,
        sources=_greedy,
        until_s=66.0,
        loads=(0.3, 0.5, 0.7, 0.9),
        groups={"others": _others, "greedy": lambda call: not _others(call)},
    ),
    Scenario(
        name="beside",
        title="BERT-base at 30 % of one core beside MiniLM at the load, 1 s",
        device=Device(services={MODEL: BERT_BASE, OTHER: MINILM}),
        lengths=traces.cola,
        sources=_beside(0.3),
        until_s=26.0,
        loads=(0.001, 0.3, 0.6, 1.0, 2.0),
        groups={
            "own": lambda call: call.model == MODEL,
            "other": lambda call: call.model == OTHER,
        },
    ),
    Scenario(
        name="frozen",
        title="BERT-base and MiniLM on one core, MiniLM stands still from 10 s to 13 s, 1 s",
        device=Device(
            services={MODEL: BERT_BASE, OTHER: MINILM},
            stalls=(Stall(model=OTHER, at_s=10.0, seconds=3.0),),
        ),
        lengths=traces.cola,
        sources=_beside(0.3),
        loads=(0.3,),
        until_s=20.0,
        warm_s=2.0,
        groups={
            "own before": lambda call: call.model == MODEL and call.arrival_s < 9.0,
            "own during": lambda call: call.model == MODEL and 10.0 <= call.arrival_s < 13.0,
            "other after": lambda call: call.model == OTHER and call.arrival_s >= 13.5,
        },
    ),
    Scenario(
        name="stall",
        title="BERT-base on two cores, one stands still from 10 s to 13 s, 500 ms",
        device=_device(BERT_BASE, lanes=2, stalls=(Stall(lane=1, at_s=10.0, seconds=3.0),)),
        lengths=traces.cola,
        sources=_steady(traces.cola, 0.5),
        loads=(0.4, 0.8, 1.2),
        until_s=20.0,
        groups={
            "before": lambda call: call.arrival_s < 9.5,
            "during": lambda call: 9.5 <= call.arrival_s < 13.0,
            "after": lambda call: call.arrival_s >= 14.0,
        },
    ),
)
