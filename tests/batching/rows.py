"""Rows, limits and prices for tests of the policy, and how to draw them."""

import itertools

from hypothesis import strategies as st

from bertd.batching import cost, policy, queue

NOW = 100.0
# Priorities are factors of a flow's weight.
HIGH, NORMAL, LOW = 16.0, 1.0, 1 / 16
ROUNDING_S = 1e-9


def row(tokens: int = 10, deadline_s: float = NOW + 10, **fields) -> policy.Row:
    """A waiting row; deadlines are far away unless given."""
    fields.setdefault("sequence", 0)
    fields.setdefault("arrival_s", NOW)
    return policy.Row(tokens=tokens, deadline_s=deadline_s, **fields)


def limits(max_tokens: int = 100, max_rows: int = 10, max_delay_s: float = 0.0) -> policy.Limits:
    """Limits of a batch."""
    return policy.Limits(max_tokens=max_tokens, max_rows=max_rows, max_delay_s=max_delay_s)


bounds = st.builds(limits, st.integers(1, 200), st.integers(1, 12))
prices = st.one_of(
    st.just(cost.FREE),
    st.builds(
        cost.Price,
        fixed_s=st.floats(0, 2),
        token_s=st.floats(0, 0.05),
        square_s=st.floats(0, 0.001),
    ),
)
weights = st.sampled_from([LOW, 0.5, NORMAL, 3.0, HIGH])


@st.composite
def flows(draw) -> dict[str, list[policy.Row]]:
    """Up to four sorted flows of up to 15 rows, some expired, some that have waited long."""
    count = itertools.count()
    found = {}
    for name in "abcd"[: draw(st.integers(0, 4))]:
        weight = draw(weights)
        drawn = draw(
            st.lists(
                st.tuples(st.integers(1, 120), st.integers(-3, 20), st.integers(0, 15)),
                min_size=1,
                max_size=15,
            )
        )
        found[name] = sorted(
            (
                row(
                    tokens,
                    NOW + left_s,
                    arrival_s=NOW - age_s,
                    sequence=next(count),
                    flow=name,
                    weight=weight,
                )
                for tokens, left_s, age_s in drawn
            ),
            key=policy.order,
        )
    return found


class Backlog:
    """A queue in which flows always want more: what each was given, batch by batch."""

    def __init__(self, limit: policy.Limits, **lengths: tuple[float, list[int]]) -> None:
        """Each flow has a weight and the lengths of its rows, over and over."""
        self.queue = queue.Queue()
        self.limits = limit
        self.weight = {name: weight for name, (weight, _) in lengths.items()}
        self.longest = {name: max(of) for name, (_, of) in lengths.items()}
        self.given = dict.fromkeys(lengths, 0)
        self._lengths = {name: itertools.cycle(of) for name, (_, of) in lengths.items()}
        self._sequence = itertools.count()
        self._waiting = dict.fromkeys(lengths, 0)

    def put(self, flow: str, tokens: int, weight: float, **fields) -> policy.Row:
        """One more row."""
        made = row(tokens, flow=flow, weight=weight, sequence=next(self._sequence), **fields)
        self.queue.put([made])
        return made

    def batch(self, rows: int = 20) -> list[policy.Row]:
        """Takes a batch of as many rows as always wait of each flow."""
        for name, of in self._lengths.items():
            while self._waiting[name] < rows:
                self.put(name, next(of), self.weight[name])
                self._waiting[name] += 1
        taken = self.queue.take(self.limits, NOW).batch
        for each in taken:
            if each.flow in self.given:
                self.given[each.flow] += each.tokens
                self._waiting[each.flow] -= 1
        return taken

    def virtual(self, flow: str) -> float:
        """What a flow was given, over its weight."""
        return self.given[flow] / self.weight[flow]
