"""`bertd predict`: classify texts from the command line or from stdin."""

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


def predict(target: str, texts: Sequence[str], *, as_json: bool) -> None:
    """Classifies texts, or the lines of stdin where there are none.

    JSON comes call by call, so that an endless stdin works; a table comes at the end.

    Args:
        target: MODEL or MODEL/ADAPTER.
        texts: What to classify.
        as_json: Print one JSON object for each text instead of a table.
    """
    model, _, adapter = target.partition("/")
    inputs = iter(texts or _lines())
    rows: list[tuple[str, str, str]] = []
    with sync.Client() as client:
        _check_answers(client.address)
        while some := list(itertools.islice(inputs, TEXTS_PER_CALL)):
            reply = client.classify(some, model=model, adapter=adapter)
            for text, result in zip(some, reply, strict=True):
                if as_json:
                    terminal.out(json.dumps(as_dict(text, result, reply), ensure_ascii=False))
                else:
                    rows.append(_row(text, result))
    if rows:
        terminal.out(table.render(("TEXT", "LABEL", "PROBABILITY"), rows))


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
        "model": reply.served.model,
        "adapter": reply.served.adapter,
        "revision": reply.served.revision,
    }


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


def _row(text: str, result: results.Classification) -> tuple[str, str, str]:
    scores = [result.scores.get(label, result.score) for label in result.labels]
    return (
        table.cut(terminal.visible(text), TEXT_COLUMNS),
        ", ".join(result.labels),
        ", ".join(f"{score:.3f}" for score in scores or [result.score]),
    )


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
