"""Every field that a manifest may hold: its type, default and limits.

The docstring under a field is its documentation: it appears in the JSON Schema, in
`docs/manifest.md` and in editors. Python names carry units (`max_delay_s`), YAML names are
camelCase without them (`maxDelay: 5ms`). Instances are frozen; what they say about other fields or
other documents is checked in `validation`.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import pydantic
from pydantic.alias_generators import to_camel

from bertd.manifest import quantities, sources

API_VERSION: Literal["bertd.dev/v1"] = "bertd.dev/v1"
KINDS = ("Model", "Adapter")

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
LABEL_KEY_PATTERN = r"^[A-Za-z0-9]([-A-Za-z0-9_./]{0,126}[A-Za-z0-9])?$"
LABEL_VALUE_PATTERN = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
DEVICE_PATTERN = r"^(auto|cpu|cuda(:[0-9]{1,3})?)$"

METADATA_LABELS_LIMIT = 64
ADAPTERS_LIMIT = 4_096
STAGES_LIMIT = 32
LABEL_NAMES_LIMIT = 4_096
LABEL_NAME_LIMIT_CHARACTERS = 256
LENGTH_LOWEST_TOKENS = 3
LENGTH_LIMIT_TOKENS = 65_536
BATCH_LIMIT_TOKENS = 1_048_576
BATCH_LIMIT_ROWS = 65_536
DELAY_LIMIT_S = 10.0
QUEUE_DELAY_LOWEST_S = 0.001
QUEUE_DELAY_LIMIT_S = 600.0
IDLE_LOWEST_S = 1.0
IDLE_LIMIT_S = 30 * 24 * 3600.0
BUDGET_LOWEST_BYTES = 2**20
BUDGET_LIMIT_BYTES = 2**50
PREFETCH_LIMIT_LAYERS = 64
TEMPERATURE_LOWEST = 0.01
TEMPERATURE_LIMIT = 100.0
WEIGHT_LOWEST = 0.001
WEIGHT_LIMIT = 1000.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Validation context: the values come from a manifest, not from Python code or the store."""

    base_dir: str | None


def _yaml_name(field: str) -> str:
    """The camelCase name without the unit: `max_delay_s` is written `maxDelay`."""
    return to_camel(re.sub(r"_(s|bytes)$", "", field))


def _matching(pattern: str, must: str) -> tuple[pydantic.AfterValidator, object]:
    """A string of one form; `must` is the error text."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern.removeprefix("^").removesuffix("$"), value):
            raise ValueError(must)
        return value

    return pydantic.AfterValidator(check), pydantic.Field(json_schema_extra={"pattern": pattern})


def _source(
    schemes: tuple[str, ...] = (), *, glob: bool = False
) -> Callable[[str, pydantic.ValidationInfo], str]:
    def check(value: str, info: pydantic.ValidationInfo) -> str:
        source = sources.checked(value, schemes=schemes, glob=glob)
        if isinstance(info.context, Written):
            return sources.absolute(source, info.context.base_dir)
        return source

    return check


def _duration(lowest_s: float, highest_s: float) -> tuple[object, ...]:
    """A duration within inclusive bounds: text in manifests, seconds in Python."""
    lowest, highest = quantities.print_duration(lowest_s), quantities.print_duration(highest_s)

    def read(value: object, info: pydantic.ValidationInfo) -> object:
        if isinstance(value, str):
            value = quantities.parse_duration(value)
        elif info.context is not None:
            raise ValueError("must be a duration with a unit, such as '500ms'")
        if isinstance(value, float | int) and not lowest_s <= value <= highest_s:
            raise ValueError(f"must be from '{lowest}' to '{highest}'")
        return value

    return (
        pydantic.BeforeValidator(read),
        pydantic.PlainSerializer(quantities.print_duration, return_type=str),
        pydantic.WithJsonSchema({"type": "string", "pattern": quantities.DURATION_PATTERN}),
    )


def _read_size(value: object, info: pydantic.ValidationInfo) -> object:
    if isinstance(value, str):
        value = quantities.parse_size(value)
    elif info.context is not None:
        raise ValueError("must be a size with a unit, such as '512MiB'")
    if isinstance(value, int) and not BUDGET_LOWEST_BYTES <= value <= BUDGET_LIMIT_BYTES:
        lowest = quantities.print_size(BUDGET_LOWEST_BYTES)
        highest = quantities.print_size(BUDGET_LIMIT_BYTES)
        raise ValueError(f"must be from '{lowest}' to '{highest}'")
    return value


def _shortest(value: float) -> float | int:
    """1 rather than 1.0."""
    return int(value) if value.is_integer() else value


def _printable(value: str) -> str:
    if any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in value):
        raise ValueError("must not contain control characters or line breaks")
    return value


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"must not name '{value}' twice")
        seen.add(value)
    return values


Name = Annotated[
    str,
    *_matching(
        NAME_PATTERN,
        "must be a DNS label: 1 to 63 lower case letters, digits and '-', "
        "beginning and ending with a letter or digit",
    ),
]
LabelKey = Annotated[
    str,
    *_matching(
        LABEL_KEY_PATTERN,
        "must be a label key: 1 to 128 letters, digits, '-', '_', '.' and '/', "
        "beginning and ending with a letter or digit",
    ),
]
LabelValue = Annotated[
    str,
    *_matching(
        LABEL_VALUE_PATTERN,
        "must be a label value: up to 63 letters, digits, '-', '_' and '.', "
        "beginning and ending with a letter or digit",
    ),
]
Digest = Annotated[
    str,
    *_matching(DIGEST_PATTERN, "must be 'sha256:' followed by 64 lower case hexadecimal digits"),
]
Device = Annotated[
    str, *_matching(DEVICE_PATTERN, "must be 'auto', 'cpu', 'cuda' or 'cuda:' and a number")
]
BaseSource = Annotated[str, pydantic.AfterValidator(_source(("package", "hub")))]
AdapterSource = Annotated[str, pydantic.AfterValidator(_source(("package",)))]
AdapterGlob = Annotated[str, pydantic.AfterValidator(_source(("package",), glob=True))]
DataSource = Annotated[str, pydantic.AfterValidator(_source())]
Size = Annotated[
    int,
    pydantic.BeforeValidator(_read_size),
    pydantic.PlainSerializer(quantities.print_size, return_type=str),
    pydantic.WithJsonSchema({"type": "string", "pattern": quantities.SIZE_PATTERN}),
]
LabelName = Annotated[
    str,
    pydantic.Field(min_length=1, max_length=LABEL_NAME_LIMIT_CHARACTERS),
    pydantic.AfterValidator(_printable),
]
# YAML and JSON have lists only; strict tuples would refuse them.
Names = Annotated[
    tuple[Name, ...],
    pydantic.Strict(False),
    pydantic.Field(min_length=1, max_length=ADAPTERS_LIMIT),
    pydantic.AfterValidator(_unique),
]
LabelNames = Annotated[
    tuple[LabelName, ...],
    pydantic.Strict(False),
    pydantic.Field(min_length=1, max_length=LABEL_NAMES_LIMIT),
    pydantic.AfterValidator(_unique),
]
Number = Annotated[float, pydantic.PlainSerializer(_shortest, return_type=float | int)]
Temperature = Annotated[Number, pydantic.Field(ge=TEMPERATURE_LOWEST, le=TEMPERATURE_LIMIT)]
Probability = Annotated[Number, pydantic.Field(ge=0.0, le=1.0)]
Thresholds = Annotated[dict[LabelName, Probability], pydantic.Field(max_length=LABEL_NAMES_LIMIT)]
Weight = Annotated[Number, pydantic.Field(ge=WEIGHT_LOWEST, le=WEIGHT_LIMIT)]


class Part(pydantic.BaseModel):
    """Base of all: strict types, no unknown keys, frozen, camelCase in YAML."""

    model_config = pydantic.ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        alias_generator=_yaml_name,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )


class Base(Part):
    """The encoder weights that a Model stands on."""

    source: BaseSource
    """Where the checkpoint is: a directory, `package://python_package/path`, or
    `hub://org/name@revision`. A relative path begins at the manifest's own directory."""
    digest: Digest | None = None
    """Pins the content: `sha256:` and 64 hexadecimal digits. A mismatch never serves."""


class Pooling(Part):
    """How token vectors become one embedding; what is not set is what the checkpoint declares."""

    mode: Literal["mean", "cls", "max", "pooler"] | None = None
    """Mean or maximum over tokens, the first token, or the checkpoint's pooler layer."""
    normalize: bool | None = None
    """Whether embeddings are scaled to unit length."""


class PruneHeads(Part):
    """Removes the attention heads that matter least."""

    fraction: Annotated[Number, pydantic.Field(gt=0.0, lt=1.0)]
    """The share of heads to remove."""
    data: DataSource
    """Sentences to measure importance on: a jsonl file."""
    adapters: Names | None = None
    """The adapters whose loss decides; default: all of the Model."""


class Quantize(Part):
    """Stores linear weights in fewer bits; fixes the precision."""

    scheme: Literal["int8", "fp8"]
    """The number format of weights and activations."""


class Stage(Part):
    """One compression step: a mapping with exactly one key, the step's name."""

    model_config = pydantic.ConfigDict(
        json_schema_extra={"minProperties": 1, "maxProperties": 1},
    )

    prune_heads: PruneHeads | None = None
    """Removes attention heads."""
    quantize: Quantize | None = None
    """Stores linear weights in fewer bits."""


class Gate(Part):
    """A measured bar; a build below it never serves."""

    data: DataSource
    """Labelled sentences to measure on: a jsonl file."""
    adapters: Names | None = None
    """The adapters to measure; default: all of the Model."""
    metric: Literal["agreement", "accuracy", "f1", "matthews"] = "agreement"
    """What is measured; `agreement` compares decided labels with those of the uncompressed base."""
    min: Probability
    """The lowest value that may serve."""


class Compression(Part):
    """What is done to the base before it serves. Not available in this version."""

    stages: Annotated[
        tuple[Stage, ...], pydantic.Strict(False), pydantic.Field(max_length=STAGES_LIMIT)
    ] = ()
    """The steps, in the order in which they run."""
    gate: Gate | None = None
    """What the result must reach to serve."""


class Budget(Part):
    """What the weights may occupy per tier; the rest lives one tier down."""

    gpu_bytes: Size | None = None
    """GPU memory for weights."""
    cpu_bytes: Size | None = None
    """Main memory for weights."""


class Idle(Part):
    """When an unused base leaves memory."""

    after_s: Annotated[float, *_duration(IDLE_LOWEST_S, IDLE_LIMIT_S)]
    """How long nobody asked: `1s` to `720h`."""
    to: Literal["cpu", "disk"] = "disk"
    """The tier that it moves to; the next request wakes it."""


class Offload(Part):
    """Where the weights live and run."""

    device: Device = "auto"
    """Where the base runs: `auto`, `cpu`, `cuda` or `cuda:N`. `auto` is the CPU, even beside a
    GPU, until the path on a GPU has been measured."""
    budget: Budget | None = None
    """Memory limits per tier. Not available in this version."""
    prefetch: Annotated[int, pydantic.Field(ge=1, le=PREFETCH_LIMIT_LAYERS)] = 2
    """Layers in flight while weights are streamed. Not available in this version."""
    idle: Idle | None = None
    """When to evict. Not available in this version."""


class Batching(Part):
    """How rows of many callers and adapters share one forward pass."""

    max_tokens: Annotated[int, pydantic.Field(ge=1, le=BATCH_LIMIT_TOKENS)] = 4096
    """Packed tokens per batch. A longer row runs alone."""
    max_rows: Annotated[int, pydantic.Field(ge=1, le=BATCH_LIMIT_ROWS)] = 256
    """Rows per batch."""
    max_delay_s: Annotated[float, *_duration(0.0, DELAY_LIMIT_S)] = 0.0
    """How long an idle lane waits for company: `0ms` (it starts at once) to `10s`."""
    max_queue_delay_s: Annotated[float, *_duration(QUEUE_DELAY_LOWEST_S, QUEUE_DELAY_LIMIT_S)] = 0.5
    """A predicted wait above this is refused at once: `1ms` to `10m`."""


class Update(Part):
    """How a changed base replaces the old one."""

    strategy: Literal["blueGreen", "recreate"] = "blueGreen"
    """`blueGreen` builds the new revision beside the old; `recreate` stops the old one first (not
    available in this version)."""


class InlineAdapter(Part):
    """A BitFit fine-tune declared inside its Model, or a glob that stands for many."""

    name: Name | None = None
    """What requests call it. Default: the file's stem. Must be absent for a glob."""
    source: AdapterGlob
    """The adapter file: a path, `package://…`, or a glob such as `./tenants/*.safetensors`."""
    label_names: LabelNames | None = None
    """Names of the outputs, in order. Default: the file's own."""
    temperature: Temperature | None = None
    """Calibration, applied to logits. Default: the file's own."""
    thresholds: Thresholds | None = None
    """Lowest score at which a label is decided. Default: the file's own. Scores stay complete."""
    weight: Weight = 1.0
    """Share of the lanes where callers want more than there is, against that of other adapters."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _named_by_stem(cls, data: object) -> object:
        if not isinstance(data, Mapping) or data.get("name") is not None:
            return data
        source = data.get("source")
        stem = sources.stem(source) if isinstance(source, str) else ""
        return {**data, "name": stem} if re.fullmatch(NAME_PATTERN, stem) else data


class ModelSpec(Part):
    """One base encoder and how it serves."""

    base: Base
    """The encoder weights."""
    precision: Literal["auto", "fp32", "bf16", "int8", "fp8"] = "auto"
    """Number format of the encoder's matrix products; heads are fp32 in all of them. `int8` has
    weights of 8 signed bits with a scale per output, set when the base loads, and activations of 8
    unsigned bits with a scale and a zero per token, set as it runs; both are rotated first by a
    Hadamard matrix in blocks of 128. `fp8` needs `offload.device: cuda`, which has no `int8`.
    `auto` never rounds further than `bf16`."""
    max_length: (
        Annotated[int, pydantic.Field(ge=LENGTH_LOWEST_TOKENS, le=LENGTH_LIMIT_TOKENS)] | None
    ) = None
    """Most tokens of one input, special tokens included. Default: what the checkpoint declares."""
    on_too_long: Literal["truncate", "reject"] = "truncate"
    """What happens to a longer input."""
    pooling: Pooling = Pooling()
    """How embeddings are made."""
    compression: Compression | None = None
    """Steps that make the base smaller or faster. Not available in this version."""
    offload: Offload = Offload()
    """Device and memory limits."""
    batching: Batching = Batching()
    """Limits of one batch and of waiting for it."""
    update: Update = Update()
    """How changes are rolled out."""
    adapters: Annotated[
        tuple[InlineAdapter, ...], pydantic.Strict(False), pydantic.Field(max_length=ADAPTERS_LIMIT)
    ] = ()
    """Fine-tunes of this base; they may also be objects of their own (`kind: Adapter`)."""
    adapter_memory_bytes: Size | None = None
    """Memory for adapters, `1MiB` or more. What does not fit is loaded when it is asked for, and
    the least recently used makes room. Default: a quarter of what the daemon may use."""
    allow_inline_adapters: bool = False
    """Whether a request may carry its own adapter, as the bytes of a file."""


class AdapterSpec(Part):
    """A BitFit fine-tune as an object of its own."""

    model: Name
    """The Model that it belongs to."""
    source: AdapterSource
    """The adapter file: a path or `package://…`."""
    label_names: LabelNames | None = None
    """Names of the outputs, in order. Default: the file's own."""
    temperature: Temperature | None = None
    """Calibration, applied to logits. Default: the file's own."""
    thresholds: Thresholds | None = None
    """Lowest score at which a label is decided. Default: the file's own. Scores stay complete."""
    weight: Weight = 1.0
    """Share of the lanes where callers want more than there is, against that of other adapters."""


class Metadata(Part):
    """Who an object is."""

    name: Name
    """Unique per kind; a DNS label."""
    labels: Annotated[
        dict[LabelKey, LabelValue], pydantic.Field(max_length=METADATA_LABELS_LIMIT)
    ] = {}
    """Free words for people and scripts; they never change what runs."""
    generation: pydantic.JsonValue = None
    """Ignored: the daemon counts changes of the spec itself."""


class ModelDocument(Part):
    """A base encoder with its adapters."""

    api_version: Literal["bertd.dev/v1"]
    """Must be `bertd.dev/v1`."""
    kind: Literal["Model"]
    """What the document declares."""
    metadata: Metadata
    """Who the object is."""
    spec: ModelSpec
    """What is wanted."""
    status: pydantic.JsonValue = None
    """Ignored: what the daemon observed, as `bertd get -o yaml` prints it."""


class AdapterDocument(Part):
    """A fine-tune that names its Model."""

    api_version: Literal["bertd.dev/v1"]
    """Must be `bertd.dev/v1`."""
    kind: Literal["Adapter"]
    """What the document declares."""
    metadata: Metadata
    """Who the object is."""
    spec: AdapterSpec
    """What is wanted."""
    status: pydantic.JsonValue = None
    """Ignored: what the daemon observed, as `bertd get -o yaml` prints it."""
