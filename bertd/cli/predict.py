"""`bertd predict`: classify or tag texts from the command line or from stdin."""

import itertools
import json
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence

from bertd import errors
from bertd.cli import table, terminal
from bertd.client import failure, results, sync

TEXTS_PER_CALL = 64
TEXT_COLUMNS = 60
CONNECT_TIMEOUT_S = 0.5
REGRESSION = "regression"


def predict(target: str, texts: Sequence[str], *, as_json: bool) -> None:
    """Classifies texts, or the lines of stdin where there are none.

    JSON comes call by call, so that an endless stdin works; a table comes at the end.

    Args:
        target: MODEL or MODEL/ADAPTER.
        texts: What to classify.
        as_json: Print one JSON object for each text instead of a table.
    """
    header: tuple[str, ...] = ("TEXT", "LABEL", "PROBABILITY")
    rows: list[tuple[str, ...]] = []
    with sync.Client() as client:
        for some in _parts(texts, client):
            model, _, adapter = target.partition("/")
            reply = client.classify(some, model=model, adapter=adapter)
            if reply.problem == REGRESSION:
                header = ("TEXT", "VALUE")
            for text, result in zip(some, reply, strict=True):
                if as_json:
                    terminal.out(json.dumps(as_dict(text, result, reply), ensure_ascii=False))
                else:
                    rows.append(_row(text, result, reply.problem))
    if rows:
        terminal.out(table.render(header, rows))


def tag(target: str, texts: Sequence[str], *, as_json: bool) -> None:
    """Tags the tokens of texts, as `predict` classifies texts: a line of the table for each."""
    rows: list[tuple[str, ...]] = []
    with sync.Client() as client:
        for some in _parts(texts, client):
            model, _, adapter = target.partition("/")
            reply = client.tag(some, model=model, adapter=adapter)
            for text, tags in zip(some, reply, strict=True):
                if as_json:
                    value = {"text": text, "tags": [_tag(each) for each in tags]}
                    terminal.out(json.dumps(value | _served(reply.served), ensure_ascii=False))
                else:
                    rows += [_tag_row(each) for each in tags]
    if rows:
        terminal.out(table.render(("TOKEN", "LABEL", "PROBABILITY"), rows))


def as_dict(
    text: str, result: results.Classification, reply: results.Classified
) -> dict[str, object]:
    """One answer as JSON values; `labels` only where several may be decided."""
    several = {"labels": list(result.labels)} if reply.problem == "multi_label" else {}
    return {
        "text": text,
        "label": result.label,
        **several,
        "score": result.score,
        "scores": result.scores,
        **_served(reply.served),
    }


def _served(served: results.Served) -> dict[str, object]:
    return {"model": served.model, "adapter": served.adapter, "revision": served.revision}


def _parts(texts: Sequence[str], client: sync.Client) -> Iterator[list[str]]:
    """What goes into each call."""
    inputs = iter(texts or _lines())
    _check_answers(client.address)
    while some := list(itertools.islice(inputs, TEXTS_PER_CALL)):
        yield some


def _check_answers(address: str) -> None:
    """Refuses at once where nobody listens; the client itself would try again for a second."""
    try:
        if address.startswith("unix:"):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(address.removeprefix("unix:"))
        elif address.count(":") == 1:
            host, _, port = address.partition(":")
            socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise failure.CallError(
            "UNAVAILABLE",
            f"no daemon answers at '{address}': {error}",
            hint="start it with `bertd serve`, or name its address in BERTD_SERVER",
        ) from None


def _row(text: str, result: results.Classification, problem: str) -> tuple[str, ...]:
    shown = table.cut(terminal.visible(text), TEXT_COLUMNS)
    if problem == REGRESSION:
        return shown, f"{result.score:.6g}"
    scores = [result.scores.get(label, result.score) for label in result.labels]
    return (
        shown,
        terminal.visible(", ".join(result.labels)),
        ", ".join(f"{score:.3f}" for score in scores or [result.score]),
    )


def _tag(tag: results.Tag) -> dict[str, object]:
    return {
        "token": tag.token,
        "start": tag.start,
        "end": tag.end,
        "label": tag.label,
        "score": tag.score,
    }


def _tag_row(tag: results.Tag) -> tuple[str, ...]:
    cells = (terminal.visible(text) for text in (tag.token, tag.label or ""))
    return *cells, f"{tag.score:.3f}"


def _lines() -> Iterator[str]:
    if sys.stdin.isatty():
        raise errors.InvalidRequest("give at least one TEXT, or lines of text on stdin")
    return _decoded(sys.stdin.buffer)


def _decoded(lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise errors.InvalidRequest(f"line {number} of stdin must be UTF-8") from None
