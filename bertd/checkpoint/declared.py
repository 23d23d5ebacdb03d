"""What a checkpoint's small JSON files declare: pooling, length, labels and the kind of problem."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from bertd import errors, families
from bertd.checkpoint import json_text, sources

MAX_LABELS: Final = 10_000
MAX_LABEL_CHARACTERS: Final = 256
PROBLEMS: Final = ("single_label", "multi_label", "regression", "token")

_MODULES: Final = ("Transformer", "Pooling", "Normalize")
_POOLING_FLAGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "pooling_mode_cls_token": "cls",
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_max_tokens": "max",
    }
)
_PROBLEM_TYPES: Final[Mapping[object, str]] = MappingProxyType(
    {
        "single_label_classification": "single_label",
        "multi_label_classification": "multi_label",
        "regression": "regression",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """How token vectors become one: `mode` is `mean`, `cls`, `max` or `pooler`."""

    mode: str
    normalize: bool


def pooling(texts: Mapping[str, bytes]) -> Pooling:
    """The pooling that sentence-transformers would apply; the plain mean where nothing is declared.

    Raises:
        errors.BadArtifact: reason `BadConfig`, `BadJson` or `UnsupportedModule`.
    """
    modules = _modules(texts.get(sources.MODULES))
    if "Pooling" in modules and sources.POOLING not in texts:
        raise _bad(sources.MODULES, f"names a pooling, but '{sources.POOLING}' is missing")
    mode = "mean"
    if sources.POOLING in texts:
        mode = _mode(json_text.parse_object(texts[sources.POOLING], sources.POOLING))
    return Pooling(mode=mode, normalize="Normalize" in modules)


def max_length(texts: Mapping[str, bytes], shape: families.EncoderShape) -> int:
    """The most tokens a row may have: the least of what the files declare and the positions allow.

    Raises:
        errors.BadArtifact: reason `BadConfig` or `BadJson`.
    """
    limits = [shape.max_tokens]
    for name, key in (
        (sources.SENTENCE, "max_seq_length"),
        (sources.TOKENIZER_CONFIG, "model_max_length"),
    ):
        value = json_text.parse_object(texts[name], name).get(key) if name in texts else None
        if value is None:
            continue
        # Tokenizers without a limit declare int(1e30), some as a float.
        declared = json_text.number(value)
        if declared is None or declared < 1 or declared != math.floor(declared):
            raise _bad(
                name, f"must have a positive whole `{key}`, but it is {families.quote(value)}"
            )
        limits.append(int(declared))
    return min(limits)


def architecture(config: Mapping[str, object]) -> str:
    """The transformers class that saved the checkpoint; empty where the config names none.

    Raises:
        errors.BadArtifact: reason `BadConfig`.
    """
    names = config.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _bad(sources.CONFIG, "must have a list of names as `architectures`")
    return str(names[0]) if names else ""


def label_names(config: Mapping[str, object], labels: int) -> tuple[str, ...]:
    """The names of a head's `labels` outputs: `id2label`'s, or LABEL_0 and so on.

    Raises:
        errors.BadArtifact: reason `BadConfig`.
    """
    table = config.get("id2label")
    if table is None:
        return tuple(f"LABEL_{index}" for index in range(labels))
    if not isinstance(table, dict) or set(table) != {str(index) for index in range(labels)}:
        raise _bad(sources.CONFIG, f"must name the head's {labels} labels 0 to N-1 in `id2label`")
    return check_labels([table[str(index)] for index in range(labels)], "`id2label`")


def check_labels(names: object, where: str) -> tuple[str, ...]:
    """Prove a list of label names: distinct and bounded. They may hold what moves a terminal.

    Raises:
        errors.BadArtifact: reason `BadLabels`.
    """
    if not isinstance(names, list) or not 1 <= len(names) <= MAX_LABELS:
        raise _bad_labels(f"{where} must list 1 to {MAX_LABELS} labels")
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_LABEL_CHARACTERS:
            raise _bad_labels(
                f"{where} must hold strings of 1 to {MAX_LABEL_CHARACTERS} characters, "
                f"not {families.quote(name)}"
            )
        if name in seen:
            raise _bad_labels(f"{where} has {families.quote(name)} twice")
        seen.add(name)
    return tuple(names)


def problem(config: Mapping[str, object], head: families.HeadLayout, labels: int) -> str:
    """What a head's outputs mean, decided as transformers decides it.

    Raises:
        errors.BadArtifact: reason `BadConfig`.
    """
    if head.input == "token":
        return "token"
    declared = config.get("problem_type")
    if declared is None:
        return "regression" if labels == 1 else "single_label"
    known = _PROBLEM_TYPES.get(declared) if isinstance(declared, str) else None
    if known is None:
        raise _bad(
            sources.CONFIG,
            f"must have one of {', '.join(map(families.quote, _PROBLEM_TYPES))} as "
            f"`problem_type`, not {families.quote(declared)}",
        )
    return known


def _modules(text: bytes | None) -> list[str]:
    if text is None:
        return []
    entries = json_text.parse(text, sources.MODULES)
    if not isinstance(entries, list):
        raise _bad(sources.MODULES, "must be a list")
    names = []
    for entry in entries:
        kind = entry.get("type") if isinstance(entry, dict) else None
        if not isinstance(kind, str):
            raise _bad(sources.MODULES, "must be a list of mappings with a `type`")
        name = kind.rpartition(".")[2]
        if name not in _MODULES:
            raise errors.BadArtifact(
                f"{sources.MODULES} has the module {families.quote(name)}, which bertd lacks; "
                f"it has {', '.join(_MODULES)}",
                reason="UnsupportedModule",
            )
        if name == "Pooling" and entry.get("path") != "1_Pooling":
            raise _bad(sources.MODULES, "must have its pooling in '1_Pooling'")
        names.append(name)
    return names


def _mode(config: Mapping[str, object]) -> str:
    named = config.get("pooling_mode")  # newer sentence-transformers say it in one word
    modes = (
        [named]
        if isinstance(named, str)
        else [
            _POOLING_FLAGS.get(key, key)
            for key, value in config.items()
            if key.startswith("pooling_mode_") and value is True
        ]
    )
    if len(modes) == 1 and modes[0] in _POOLING_FLAGS.values():
        return modes[0]
    raise _bad(
        sources.POOLING,
        f"must choose one of {', '.join(_POOLING_FLAGS.values())}, not "
        f"{families.quote(' + '.join(modes) or 'none')}",
    )


def _bad(name: str, why: str) -> errors.BadArtifact:
    return errors.BadArtifact(f"{name} {why}", reason="BadConfig")


def _bad_labels(why: str) -> errors.BadArtifact:
    return errors.BadArtifact(why, reason="BadLabels")
