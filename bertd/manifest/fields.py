"""Walking the spec's classes: which fields exist where, as manifests name them."""

import typing
from collections.abc import Iterator

from pydantic.fields import FieldInfo

from bertd.manifest import problems, spec


def named(part: type[spec.Part]) -> dict[str, FieldInfo]:
    """The fields of a class by their YAML names, in order."""
    return {info.alias or name: info for name, info in part.model_fields.items()}


def inside(annotation: object) -> type[spec.Part] | None:
    """The class of the mapping, or of the list's mappings, that a field holds."""
    if isinstance(annotation, type) and issubclass(annotation, spec.Part):
        return annotation
    found = (inside(argument) for argument in typing.get_args(annotation))
    return next((part for part in found if part is not None), None)


def is_list(annotation: object) -> bool:
    """Whether the field holds a list."""
    return typing.get_origin(annotation) is tuple or any(
        is_list(argument) for argument in typing.get_args(annotation)
    )


def at(part: type[spec.Part], path: problems.Path) -> type[spec.Part] | None:
    """The class of the mapping at a path below `part`."""
    for step in path:
        if isinstance(step, str):
            info = named(part).get(step)
            found = None if info is None else inside(info.annotation)
            if found is None:
                return None
            part = found
    return part


def leaves(part: type[spec.Part], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every field that holds no further fields: `batching.maxRows`, `adapters[].source`."""
    for name, info in named(part).items():
        path = f"{prefix}{name}{'[]' if is_list(info.annotation) else ''}"
        below = inside(info.annotation)
        if below is None:
            yield path.removesuffix("[]"), info
        else:
            yield from leaves(below, f"{path}.")
