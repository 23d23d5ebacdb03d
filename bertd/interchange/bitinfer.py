"""BitInfer's files: `torch.save` of offsets and a classifier, or the base64 text of such a file.

    data = bitinfer.convert(text, base="models/bert", label_names=("no", "yes"))

gives the bytes of an adapter file, for `adapter_bytes` of a request or for a file. BitInfer's
files name no base, no tokenizer and no labels: the caller does. A file is a mapping of two

    offsets     'bert.' + name of a bias -> tuned minus base
    classifier  name of a head's tensor -> its value

Names are checked one by one: BitInfer ignores those it does not know and answers as the base.
Format: https://github.com/piero2c/BitInfer (file_format of `save_bitfit`), measured.
"""

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bertd import errors, families
from bertd.checkpoint import adapter_file, files
from bertd.interchange import heads, records, refusals, tensors

MAX_TEXT_BYTES: Final = 1024 * 1024 * 1024
OFFSETS: Final = "offsets/"
CLASSIFIER: Final = "classifier/"

_BINARY: Final = (b"PK\x03\x04", b"\x80")
_BUFFERS: Final = ("embeddings.position_ids", "embeddings.token_type_ids")


def convert(
    data: bytes | str,
    *,
    base: str | files.Base,
    label_names: Sequence[str] = (),
    problem: str = "",
    head_input: str = "",
    key_prefix: str = "",
    what: str = "the BitInfer file",
) -> bytes:
    """Turn a BitInfer file, or its base64 text, into the bytes of an adapter file.

    Takes about a second: the pickle is read in a process of its own. `base` is the checkpoint that
    the file was made from: a source, all of which is read for its digest, or for many files what
    `records.open_base(source).base` described once. `key_prefix` is put before the offsets' names,
    for files of a bare model without 'bert.'.

    Raises:
        errors.BadArtifact: naming the tensor; reason as `read` and `tensors.unpickled`.
        errors.InvalidRequest: torch is missing, or label names do not fit.
    """
    described = records.open_base(base).base if isinstance(base, str) else base
    choices = records.Choices(
        label_names=tuple(label_names),
        problem=problem,
        head_input=head_input,
        key_prefix=key_prefix,
    )
    with tensors.held(decode(data, what)) as fd:
        found = tensors.unpickled(fd, what)
    return records.encode(read(found, described, choices, what), described, what)


def is_binary(data: bytes) -> bool:
    """Whether bytes begin as a file of `torch.save` does, which no base64 text can."""
    return data.startswith(_BINARY)


def decode(data: bytes | str, what: str) -> bytes:
    """The file itself: as given, or out of base64 text (standard alphabet, line breaks allowed).

    Raises:
        errors.BadArtifact: reason `BadBase64` or `TooLarge`.
    """
    if len(data) > MAX_TEXT_BYTES:
        raise refusals.bad(
            what, f"has {len(data)} bytes; the limit is {MAX_TEXT_BYTES}", "TooLarge"
        )
    if isinstance(data, bytes) and is_binary(data):
        return data
    try:
        raw = data.encode("ascii") if isinstance(data, str) else data
        decoded = base64.b64decode(b"".join(raw.split()), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise refusals.bad(
            what, "is neither a file of torch.save nor base64 text", "BadBase64"
        ) from error
    if not decoded:
        raise refusals.bad(what, "is empty", "BadBase64")
    return decoded


def read(
    found: tensors.Found, base: files.Base, choices: records.Choices, what: str
) -> records.Imported:
    """Sort a file's tensors into offsets and head, every name and shape proved.

    Raises:
        errors.BadArtifact: reason `NotBitInfer`, `UnknownTensor`, `WeightsMoved`,
            `UnsupportedDtype` or `MissingHead`, naming the tensor.
        errors.InvalidRequest: label names do not fit.
    """
    for name in found.arrays:
        if not name.startswith((OFFSETS, CLASSIFIER)):
            raise refusals.bad(
                what,
                f"holds {families.quote(name)}; a BitInfer file holds `offsets` and `classifier`",
                "NotBitInfer",
                hint="a whole fine-tuned model is imported as its directory, not as one file",
            )
    offsets, zeros = _offsets(found, base, choices.key_prefix, what)
    named = {
        name.removeprefix(CLASSIFIER): array
        for name, array in found.arrays.items()
        if name.startswith(CLASSIFIER)
    }
    layout = heads.find(named, base, choices.head_input, what)
    head = {ours: named[theirs] for ours, theirs in layout.names.items()}
    label_names = records.labels(head, choices.label_names, what)
    return records.Imported(
        layout=layout,
        problem=records.problem(layout, label_names, choices.problem),
        label_names=label_names,
        offsets=offsets,
        head=head,
        origin={"format": "bitinfer", "offsets": len(offsets)},
        notes=_notes(len(offsets), zeros),
    )


def write(adapter: adapter_file.Adapter, base: files.Base, what: str = "the adapter") -> bytes:
    """A BitInfer file of an adapter of this base; needs torch.

    `torch.load` with `weights_only=True` reads it: offsets are tensors, the classifier parameters,
    all detached, contiguous, float32 and on the CPU. Temperature and thresholds have no place.

    Raises:
        errors.BadArtifact: reason `NotExpressible`: BitInfer has no such head.
        errors.InvalidRequest: torch is not installed.
    """
    layout = _layout_of(adapter, base, what)
    try:
        import torch  # noqa: PLC0415
    except ImportError as error:
        raise errors.InvalidRequest(
            "writing BitInfer's format needs 'torch', which is not installed",
            hint="pip install 'bertd[engine]'",
        ) from error

    def tensor(array: NDArray[np.float32]) -> "torch.Tensor":
        return torch.from_numpy(np.ascontiguousarray(array).copy())

    biases = families.bias_names(base.shape)
    buffer = io.BytesIO()
    torch.save(
        {
            "offsets": {
                heads.prefix(base) + biases[ours]: tensor(array)
                for ours, array in adapter.offsets.items()
            },
            "classifier": {
                theirs: torch.nn.Parameter(tensor(adapter.head[ours]))
                for ours, theirs in layout.names.items()
            },
        },
        buffer,
    )
    return buffer.getvalue()


def to_text(data: bytes) -> str:
    """What BitInfer calls `param_hash`: the base64 text of a whole file."""
    return base64.b64encode(data).decode("ascii")


def _offsets(
    found: tensors.Found, base: files.Base, key_prefix: str, what: str
) -> tuple[dict[str, NDArray[np.float32]], int]:
    before = heads.prefix(base)
    biases = {before + theirs: ours for ours, theirs in families.bias_names(base.shape).items()}
    others = {before + theirs for theirs in families.encoder_names(base.shape).values()}
    others |= {before + name for name in _BUFFERS}
    offsets: dict[str, NDArray[np.float32]] = {}
    zeros = 0
    for key, array in found.arrays.items():
        if not key.startswith(OFFSETS):
            continue
        name = key_prefix + key.removeprefix(OFFSETS)
        if name in biases:
            if key in found.dtypes:
                raise refusals.bad(
                    what,
                    f"has {families.quote(name)} with dtype {families.quote(found.dtypes[key])}; "
                    "it must be floating point",
                    "UnsupportedDtype",
                )
            offsets[biases[name]] = array
        elif name not in others:
            raise _unknown(name, before, [*biases, *others], what)
        elif array.any():
            raise refusals.bad(
                what,
                f"offsets the weight {families.quote(name)} by up to {abs(array).max():.3g}",
                "WeightsMoved",
                hint="an adapter offsets biases only; the fine-tuning must freeze everything else",
            )
        else:
            zeros += 1
    return offsets, zeros


def _notes(offsets: int, zeros: int) -> tuple[str, ...]:
    notes = [f"left out {zeros} weights whose offsets are all zero"] if zeros else []
    return (*notes, *(() if offsets else ("no bias is offset: the head is all there is",)))


def _unknown(name: str, before: str, known: list[str], what: str) -> errors.BadArtifact:
    hint = families.did_you_mean(name, known)
    if before + name in known:
        hint = f"it names a bare model; --key-prefix {before} puts '{before}' before every name"
    return refusals.bad(
        what, f"offsets the unknown {families.quote(name)}", "UnknownTensor", hint=hint
    )


def _layout_of(adapter: adapter_file.Adapter, base: files.Base, what: str) -> families.HeadLayout:
    head = adapter.info.head
    brings_pooler = "pooler.weight" in adapter.head
    for layout in heads.layouts(base).values():
        # BitInfer would put a head that reads every token on the pooler, and never tell.
        is_ours = (layout.kind, layout.input) == (head.kind, head.input) != ("linear", "token")
        if is_ours and not brings_pooler:
            return layout
    raise refusals.bad(
        what,
        f"has a head '{head.kind}' on '{head.input}', which BitInfer has no place for",
        "NotExpressible",
        hint="train it with the head of the base's own classifier, such as linear on the pooler",
    )
