"""The record in an adapter file's header: whose it is, how its head computes, how it was trained.

Every value but the format and the digests is JSON text. Keys of other tools are ignored; keys that
begin with `bertd.` must be known.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from bertd import errors, families
from bertd.checkpoint import declared, json_text

FORMAT: Final = "adapter/1"
MAX_TRAINING_BYTES: Final = 64 * 1024
MAX_TEMPERATURE: Final = 1_000.0

_KEYS: Final = (
    "bertd.format",
    "bertd.base.sha256",
    "bertd.tokenizer.sha256",
    "bertd.head",
    "bertd.labelNames",
    "bertd.temperature",
    "bertd.thresholds",
    "bertd.training",
)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How a head computes: one of `families.HEAD_KINDS`, `HEAD_INPUTS` and `declared.PROBLEMS`."""

    kind: str
    input: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterInfo:
    """What an adapter's header says. Digests are hex sha256; `digest` is that of the whole file."""

    base_digest: str
    tokenizer_digest: str
    head: Head
    label_names: tuple[str, ...]
    temperature: float
    thresholds: Mapping[str, float]
    training: Mapping[str, object]
    digest: str
    file_bytes: int


def build(info: AdapterInfo) -> dict[str, str]:
    """The metadata that `parse` reads back; digest and size are the file's own.

    Raises:
        errors.BadArtifact: a number is not finite, or the training record is not JSON.
    """
    head = {"input": info.head.input, "kind": info.head.kind, "problem": info.head.problem}
    values: dict[str, object] = {
        "bertd.head": head,
        "bertd.labelNames": list(info.label_names),
        "bertd.temperature": info.temperature,
        "bertd.thresholds": dict(info.thresholds),
        "bertd.training": dict(info.training),
    }
    return {
        "bertd.format": FORMAT,
        "bertd.base.sha256": info.base_digest,
        "bertd.tokenizer.sha256": info.tokenizer_digest,
    } | {key: _json(key, value) for key, value in values.items()}


def parse(metadata: Mapping[str, str], what: str, *, digest: str, file_bytes: int) -> AdapterInfo:
    """Prove the metadata of an adapter file of this digest and size. `what` names it in messages.

    Raises:
        errors.BadArtifact: reason `BadMetadata`, `BadJson` or `BadLabels`, naming the key.
    """
    if metadata.get("bertd.format") != FORMAT:
        _refuse(
            what,
            f"must have '{FORMAT}' as `bertd.format` in its metadata",
            hint="this is not an adapter, or one of a later bertd",
        )
    for key in metadata:
        if key.startswith("bertd.") and key not in _KEYS:
            hint = families.did_you_mean(key, list(_KEYS))
            _refuse(what, f"has the unknown metadata {families.quote(key)}", hint=hint)
    labels = declared.check_labels(
        json_text.parse(_text(metadata, "bertd.labelNames", what), f"`bertd.labelNames` of {what}"),
        f"`bertd.labelNames` of {what}",
    )
    head = _head(metadata, labels, what)
    return AdapterInfo(
        base_digest=_sha256(metadata, "bertd.base.sha256", what),
        tokenizer_digest=_sha256(metadata, "bertd.tokenizer.sha256", what),
        head=head,
        label_names=labels,
        temperature=_temperature(metadata, what),
        thresholds=_thresholds(metadata, head, labels, what),
        training=_training(metadata, what),
        digest=digest,
        file_bytes=file_bytes,
    )


def _text(metadata: Mapping[str, str], key: str, what: str) -> str:
    if key not in metadata:
        _refuse(what, f"lacks `{key}` in its metadata")
    return metadata[key]


def _sha256(metadata: Mapping[str, str], key: str, what: str) -> str:
    text = _text(metadata, key, what)
    if not _SHA256.fullmatch(text):
        _refuse(what, f"must have 64 hex digits as `{key}`, not {families.quote(text)}")
    return text


def _head(metadata: Mapping[str, str], labels: tuple[str, ...], what: str) -> Head:
    text = _text(metadata, "bertd.head", what)
    value = json_text.parse_object(text, f"`bertd.head` of {what}")
    if set(value) != {"kind", "input", "problem"}:
        _refuse(what, "must give `kind`, `input` and `problem` in `bertd.head`, no more")
    for key, known in (
        ("kind", families.HEAD_KINDS),
        ("input", families.HEAD_INPUTS),
        ("problem", declared.PROBLEMS),
    ):
        if value[key] not in known:
            _refuse(
                what,
                f"must have one of {', '.join(map(families.quote, known))} as `{key}` of "
                f"`bertd.head`, not {families.quote(value[key])}",
            )
    head = Head(kind=str(value["kind"]), input=str(value["input"]), problem=str(value["problem"]))
    if (head.problem == "token") != (head.input == "token"):
        _refuse(what, "must have 'token' as both `input` and `problem` of `bertd.head`, or neither")
    if head.problem == "single_label" and len(labels) < 2:
        _refuse(what, "must have two labels or more for a 'single_label' head")
    return head


def _temperature(metadata: Mapping[str, str], what: str) -> float:
    text = metadata.get("bertd.temperature", "1.0")
    value = json_text.number(json_text.parse(text, f"`bertd.temperature` of {what}"))
    if value is None or not 0 < value <= MAX_TEMPERATURE:
        _refuse(what, f"must have a `bertd.temperature` over 0 and up to {MAX_TEMPERATURE:g}")
    return value


def _thresholds(
    metadata: Mapping[str, str], head: Head, labels: tuple[str, ...], what: str
) -> Mapping[str, float]:
    text = metadata.get("bertd.thresholds", "{}")
    value = json_text.parse_object(text, f"`bertd.thresholds` of {what}")
    if value and head.problem == "regression":
        _refuse(what, "must have no `bertd.thresholds` for a 'regression' head")
    found: dict[str, float] = {}
    known = frozenset(labels)
    for label, threshold in value.items():
        if label not in known:
            hint = families.did_you_mean(label, list(labels))
            _refuse(what, f"sets a threshold for no label: {families.quote(label)}", hint=hint)
        number = json_text.number(threshold)
        if number is None or not 0 <= number <= 1:
            _refuse(what, f"must have a threshold from 0 to 1 for {families.quote(label)}")
        found[label] = number
    return found


def _training(metadata: Mapping[str, str], what: str) -> Mapping[str, object]:
    text = metadata.get("bertd.training", "{}")
    if len(text.encode("utf-8")) > MAX_TRAINING_BYTES:
        _refuse(what, f"has a `bertd.training` record over {MAX_TRAINING_BYTES} bytes")
    return json_text.parse_object(text, f"`bertd.training` of {what}")


def _json(key: str, value: object) -> str:
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise errors.BadArtifact(
            f"`{key}` must hold only JSON values and finite numbers", reason="BadMetadata"
        ) from error


def _refuse(what: str, why: str, *, hint: str = "") -> NoReturn:
    raise errors.BadArtifact(f"{what} {why}", reason="BadMetadata", hint=hint)
