"""Which head some tensors are, by the names that transformers gives them in each family."""

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from bertd import families
from bertd.checkpoint import files
from bertd.interchange import refusals

# `model_type` of a config -> how its classes begin in transformers
_CLASSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "bert": "Bert",
        "camembert": "Camembert",
        "distilbert": "DistilBert",
        "electra": "Electra",
        "mpnet": "MPNet",
        "roberta": "Roberta",
        "xlm-roberta": "XLMRoberta",
    }
)
_TASKS: Final = ("SequenceClassification", "TokenClassification")


def layouts(base: files.Base) -> dict[str, families.HeadLayout]:
    """The heads that transformers has for a base: name of the class -> layout."""
    prefix = _CLASSES[str(base.config["model_type"])]
    found = {f"{prefix}For{task}": families.head_layout(f"{prefix}For{task}") for task in _TASKS}
    return {name: layout for name, layout in found.items() if layout is not None}


def prefix(base: files.Base) -> str:
    """What transformers puts before an encoder's names where a head stands beside it."""
    return f"{base.family}."


def find(names: Iterable[str], base: files.Base, head_input: str, what: str) -> families.HeadLayout:
    """The layout whose tensors are exactly these; `head_input` chooses what the head reads.

    Raises:
        errors.BadArtifact: reason `MissingHead`, or `UnknownTensor`, naming one that fits nowhere.
    """
    found = set(names)
    fitting = [layout for layout in layouts(base).values() if set(layout.names.values()) == found]
    if not fitting:
        _refuse(found, base, what)
    asked = [layout for layout in fitting if layout.input == head_input]
    if asked or not head_input:
        return (asked or fitting)[0]
    return dataclasses.replace(fitting[0], input=head_input)


def _refuse(found: set[str], base: files.Base, what: str) -> None:
    known = layouts(base)
    all_names = {name for layout in known.values() for name in layout.names.values()}
    for name in sorted(found - all_names):
        raise refusals.bad(
            what,
            f"holds the unknown head tensor {families.quote(name)}",
            "UnknownTensor",
            hint=families.did_you_mean(name, sorted(all_names)),
        )
    wanted = next(iter(known.values())).names.values()
    missing = ", ".join(f"'{name}'" for name in wanted if name not in found)
    raise refusals.bad(
        what,
        f"lacks {missing or 'a tensor'} of the head of a {base.family} classifier",
        "MissingHead",
        hint="an adapter serves with the head that it was trained with",
    )
