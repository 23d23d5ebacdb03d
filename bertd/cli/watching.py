"""`bertd get --watch`: objects, and then what becomes of them, a line for each change."""

import json
from collections.abc import Sequence

from bertd import errors
from bertd.cli import references, show, table, terminal
from bertd.client import admin

FORMS = ("", "wide", "json", "name")


def watch(names: Sequence[str], output: str, *, model: str = "") -> None:
    """Prints changes until Ctrl-C: tables, a JSON value per line, or names.

    Args:
        names: a kind, or one object, which need not exist.
        output: one of `FORMS`.
        model: only adapters of this Model; empty: all.

    Raises:
        errors.InvalidRequest: several objects, YAML, or `model` with another kind.
        errors.NotReady: the daemon stopped.
    """
    kind, name = _one(names)
    if output not in FORMS:
        raise errors.InvalidRequest(
            f"`--output` must not be '{output}' with `--watch`", hint="use a table, json or name"
        )
    if model and (kind != "Adapter" or name):
        raise errors.InvalidRequest("`--model` must be used with 'adapters' alone")
    printer = _Printer(kind, output, model)
    with admin.AdminClient() as daemon:
        for change in daemon.watch(kind, name):
            printer.show(change)
    raise errors.NotReady("the daemon stopped", hint="watch again when it is back")


class _Printer:
    """Prints changes in one form."""

    def __init__(self, kind: str, output: str, model: str) -> None:
        self._output = output
        self._model = model
        self._known: set[str] = set()  # of that Model; what is deleted no longer names it
        self._table = table.Growing(("CHANGE", *show.header(kind, wide=output == "wide")))
        self._width = len(show.header(kind, wide=output == "wide"))

    def show(self, change: admin.Change) -> None:
        """Prints one change."""
        if change.type == "restarted":
            terminal.warn("too many changes were missed; everything that is there follows again")
        objects = [each for each in change.objects if self._is_wanted(change.type, each)]
        if self._output == "json":
            self._show_json(change.type, objects)
        elif self._output == "name":
            for each in objects:
                terminal.out(f"{references.text(each.kind, each.name)} {change.type}")
        elif objects:
            rows = [[change.type, *self._row(change.type, each)] for each in objects]
            terminal.out(self._table.add(rows))

    def _show_json(self, type_: str, objects: Sequence[admin.Object]) -> None:
        for each in objects:
            value = {"type": type_, "object": show.as_dict(each)}
            terminal.out(json.dumps(value, ensure_ascii=False))
        if type_ in ("synced", "restarted"):
            terminal.out(json.dumps({"type": type_}))

    def _row(self, type_: str, shown: admin.Object) -> list[str]:
        if type_ != "deleted":
            return show.row(shown, wide=self._output == "wide")
        return [terminal.visible(shown.name), *[""] * (self._width - 1)]

    def _is_wanted(self, type_: str, shown: admin.Object) -> bool:
        if not self._model:
            return True
        is_own = type_ != "deleted" and show.model_of(shown) == self._model
        was_own = shown.name in self._known
        (self._known.add if is_own else self._known.discard)(shown.name)
        return is_own or was_own


def _one(names: Sequence[str]) -> tuple[str, str]:
    if len(names) == 1 and "/" not in names[0]:
        return references.kind(names[0]), ""
    found = references.several(names)
    if len(found) > 1:
        raise errors.InvalidRequest("`--watch` must name one object or one kind")
    return found[0]
