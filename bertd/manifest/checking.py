"""One document against its class: pydantic's findings, in our words and with positions."""

import itertools
import re

import pydantic
import pydantic_core

from bertd.manifest import fields, problems, reader, spec, suggestion

DOCUMENTS: dict[str, type[spec.ModelDocument] | type[spec.AdapterDocument]] = {
    "Model": spec.ModelDocument,
    "Adapter": spec.AdapterDocument,
}
# What pydantic calls a value of the wrong type, and what the value must be.
TYPES = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_parsing_size": "a whole number within 64 bits",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "'true' or 'false'",
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
}
# What pydantic calls a value outside its bounds, and the text for its context.
BOUNDS = {
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be greater than {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be less than {lt:g}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} entries",
}

Document = spec.ModelDocument | spec.AdapterDocument


def check(
    node: reader.Node, base_dir: str | None
) -> tuple[Document | None, list[problems.Problem]]:
    """The validated document, or None and its problems, as many of them as are ever shown."""
    document, found = _class_of(node)
    if document is None:
        return None, found
    try:
        context = spec.Written(base_dir=base_dir)
        value = reader.plain(node)
        return document.model_validate(value, context=context, by_alias=True, by_name=False), []
    except pydantic.ValidationError as error:
        located = (_problem(node, document, detail) for detail in error.errors(include_url=False))
        known = (problem for problem in located if problem is not None)
        return None, list(itertools.islice(known, problems.PROBLEMS_LIMIT + 1))


def place(node: reader.Node, path: problems.Path) -> problems.Mark:
    """Where the value at the path begins, or the closest value around it."""
    return list(reader.walk(node, path))[-1].mark


def _class_of(
    node: reader.Node,
) -> tuple[type[spec.ModelDocument] | type[spec.AdapterDocument] | None, list[problems.Problem]]:
    """The class that `kind` names, or what is wrong with `kind`."""
    if not isinstance(node.value, dict):
        text = f"must be a mapping with `apiVersion`, `kind`, `metadata` and `spec`, {_not(node)}"
        return None, [] if node.refused else [problems.Problem(node.mark, (), text)]
    kind = node.value.get("kind")
    if kind is None:
        text = f"must be set to {problems.one_of(spec.KINDS)}"
        return None, [] if node.refused else [problems.Problem(node.mark, ("kind",), text)]
    if isinstance(kind.value, str) and kind.value in DOCUMENTS:
        return DOCUMENTS[kind.value], []
    text = f"must be {problems.one_of(spec.KINDS)}, {_not(kind)}"
    if isinstance(kind.value, str):
        text += suggestion.did_you_mean(kind.value, spec.KINDS)
    return None, [] if kind.refused else [problems.Problem(kind.mark, ("kind",), text)]


def _not(node: reader.Node) -> str:
    return f"not {problems.described(reader.plain(node))}"


def _problem(
    root: reader.Node, document: type[spec.Part], detail: pydantic_core.ErrorDetails
) -> problems.Problem | None:
    """A finding with its place; None when the place was already reported by the reader."""
    path = detail["loc"]
    of_key = bool(path) and path[-1] == "[key]"
    path = path[:-1] if of_key else path
    nodes = list(reader.walk(root, path))
    mark = nodes[-1].mark
    if of_key or detail["type"] == "extra_forbidden":
        around, key = nodes[len(path) - 1], str(path[-1])
        mark = around.keys.get(key, mark)
    elif nodes[-1].refused:
        return None
    return problems.Problem(mark, path, _text(document, path, detail))


def _text(
    document: type[spec.Part], path: problems.Path, detail: pydantic_core.ErrorDetails
) -> str:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind in TYPES:
        return _wrong_type(kind, value)
    if kind in BOUNDS:
        return BOUNDS[kind].format_map(context)
    match kind:
        case "missing":
            text = "must be set"
        case "extra_forbidden":
            text = _unknown(document, path)
        case "value_error":
            text = str(context["error"])
        case "literal_error":
            text = _wrong_word(str(context["expected"]), value)
        case _:
            text = f"must be of the form that `bertd schema` describes ({kind})"
    return text


def _wrong_type(kind: str, value: object) -> str:
    text = f"must be {TYPES[kind]}, not {problems.described(value)}"
    quotable = kind == "string_type" and isinstance(value, bool | int | float)
    return f"{text}; put it in quotes" if quotable else text


def _unknown(document: type[spec.Part], path: problems.Path) -> str:
    part, key = fields.at(document, path[:-1]), str(path[-1])
    legal = () if part is None else tuple(fields.named(part))
    suggested = suggestion.did_you_mean(key, legal)
    if suggested:
        return f"must be a known field{suggested}"
    return f"must be a known field: {problems.one_of(legal)}"


def _wrong_word(expected: str, value: object) -> str:
    """`expected` is pydantic's list of words: `'a', 'b' or 'c'`."""
    text = f"must be {expected}, not {problems.described(value)}"
    if not isinstance(value, str):
        return text
    return text + suggestion.did_you_mean(value, re.findall(r"'([^']*)'", expected))
