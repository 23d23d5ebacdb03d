"""Shares are fair by weight, newcomers are served at once, and nobody starves."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bertd.batching import shares
from tests.batching.rows import HIGH, LOW, NORMAL, Backlog, limits, weights

QUANTUM = shares.QUANTUM
lengths = st.lists(st.integers(1, 128), min_size=1, max_size=8)
wants = st.tuples(weights, lengths)
# Long histories: explaining a failure line by line takes minutes.
long = settings(max_examples=30, deadline=None, phases=set(Phase) - {Phase.explain})


@long
@given(st.lists(wants, min_size=2, max_size=5), st.integers(1, 12))
def test_tokens_are_shared_by_weight(flows, rows):
    """Flows that always want more are given tokens by weight, however long their rows are.

    Over their weights, no two differ by more than a quantum and one longest row, at any time.
    """
    backlog = Backlog(
        limits(max_tokens=10**6, max_rows=rows),
        **{f"f{at}": flow for at, flow in enumerate(flows)},
    )
    for _ in range(150):
        backlog.batch(rows + 1)
        virtual = {name: backlog.virtual(name) for name in backlog.given}
        most = max(virtual, key=virtual.__getitem__)
        slack = QUANTUM + backlog.longest[most] / backlog.weight[most]
        assert virtual[most] - min(virtual.values()) <= slack + 1e-6


@long
@given(st.lists(wants, min_size=1, max_size=4), st.integers(128, 400), st.integers(0, 60), wants)
def test_a_newcomer_runs_in_the_next_batch(flows, budget, history, newcomer):
    """Whoever wants little is the first of the very next batch, whatever backlog others have.

    The backlog is also that of low priorities and of rows that filled gaps out of turn. (In the
    first quantum of all, everybody is new and the nearest deadline decides.)
    """
    backlog = Backlog(
        limits(max_tokens=budget, max_rows=50),
        **{f"f{at}": flow for at, flow in enumerate(flows)},
    )
    slowest = max(backlog.longest[name] / backlog.weight[name] for name in backlog.given)
    while min(map(backlog.virtual, backlog.given)) < QUANTUM + 2 * slowest:
        backlog.batch()
    for _ in range(history):
        backlog.batch()
    weight, (tokens, *_) = newcomer
    one = backlog.put("newcomer", tokens, weight)
    assert backlog.batch()[0] is one


@long
@given(lengths, lengths, st.lists(st.booleans(), min_size=200, max_size=200), st.integers(1, 4))
def test_leaving_and_coming_back_brings_nothing(stays, comes, presence, rows):
    """A flow that comes and goes gets no more than one that always waits, but for two quanta."""
    backlog = Backlog(limits(max_tokens=10**6, max_rows=rows), stays=(NORMAL, stays))
    got = 0
    for at, is_there in enumerate(presence):
        mine = [backlog.put("comes", comes[at % len(comes)], NORMAL) for _ in range(2 * is_there)]
        got += sum(each.tokens for each in backlog.batch() if each.flow == "comes")
        for each in mine:
            backlog.queue.cancel(each)
        assert got <= backlog.given["stays"] + 2 * QUANTUM + max(comes) + rows * max(comes)


@long
@given(lengths, lengths, lengths, st.integers(1, 12))
def test_no_priority_starves(high, normal, low, rows):
    """Between two rows of LOW, others get a bounded number of tokens: their weight in rounds.

    A row of n tokens moves LOW by n / weight; each other flow is then served until it is there,
    and two quanta and one row further at most, besides the rows of one batch.
    """
    backlog = Backlog(
        limits(max_tokens=10**6, max_rows=rows),
        high=(HIGH, high),
        normal=(NORMAL, normal),
        low=(LOW, low),
    )
    rounds = max(low) / LOW + 2 * QUANTUM
    bound = sum(
        backlog.weight[name] * rounds + backlog.longest[name] for name in ("high", "normal")
    )
    since = 0
    for _ in range(300):
        batch = backlog.batch(rows + 1)
        since += sum(each.tokens for each in batch if each.flow != "low")
        assert since <= bound + 128 * rows
        if any(each.flow == "low" for each in batch):
            since = 0


def test_a_long_row_runs_though_short_ones_fill_the_gaps() -> None:
    """A long row of a flow whose short rows overtake it in gaps runs when its turn comes.

    What overtakes is charged, but does not delay the turn of the row that it overtook.
    """
    backlog = Backlog(limits(max_tokens=100, max_rows=50), a=(1.0, [10]), b=(HIGH, [60]))
    for _ in range(20):
        backlog.batch(rows=10)
    turn = backlog.virtual("a")
    one = backlog.put("a", 100, 1.0, deadline_s=101.0)
    batches = 1
    while one not in backlog.batch(rows=10):
        batches += 1
        assert batches <= (turn + 2 * QUANTUM) * HIGH / 60
    assert batches > 1


def test_rows_that_fill_gaps_do_not_move_time() -> None:
    """Low rows that fill gaps far ahead of their turn make no newcomer wait for the others."""
    backlog = Backlog(limits(max_tokens=100, max_rows=50), a=(LOW, [40]), b=(NORMAL, [60]))
    for _ in range(100):
        backlog.batch()
    assert backlog.virtual("a") > 10 * backlog.virtual("b")
    newcomer = backlog.put("c", 60, NORMAL)
    assert newcomer in backlog.batch()


def test_the_first_of_a_flow_loses_its_turn_with_itself() -> None:
    """Once the row that was overtaken is cancelled, what overtook it counts in full."""
    backlog = Backlog(limits(max_tokens=100, max_rows=50), a=(1.0, [40]), b=(1.0, [60]))
    one = backlog.put("a", 100, 1.0, deadline_s=100.5)
    other = backlog.put("b", 60, 1.0, deadline_s=100.1)
    assert [each.tokens for each in backlog.batch()] == [60, 40]
    backlog.queue.cancel(one)
    assert other.tokens == 60
    for _ in range(100):
        backlog.batch()
    assert abs(backlog.virtual("a") - backlog.virtual("b")) <= 0.4 * backlog.virtual("b")


def test_those_that_went_away_are_forgotten_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by the parties that are remembered; who is served now is among them."""
    monkeypatch.setattr(shares, "MOST_REMEMBERED", 10)
    of = shares.Shares()
    for party in range(1000):
        of.enter(party)
        of.reach(of.of(party))
        of.charge(party, 5 * QUANTUM)
        assert len(of._served) <= 11
    assert of.of(999) > of.of(1) - QUANTUM


def test_a_correction_takes_nobodys_turn() -> None:
    """Charging afterwards what something really took does not forgive what others are owed."""
    of = shares.Shares(1.0)
    of.enter("long")
    of.enter("short")
    of.reach(of.of("long"))
    of.charge("long", 10.0)
    of.charge("long", 10.0)
    before = of.of("short")
    of.enter("short")
    assert of.of("short") == before
    assert of.of("long") - before == 20.0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1000)), max_size=60))
def test_whoever_returns_is_at_most_one_quantum_behind(history):
    """Entering never puts anybody further back than a quantum before whose turn it is."""
    of = shares.Shares()
    turn = 0.0
    for party, amount in history:
        of.enter(party)
        assert of.of(party) >= turn - QUANTUM
        turn = max(turn, of.of(party))
        of.reach(of.of(party))
        of.charge(party, amount)
