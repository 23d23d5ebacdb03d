"""A fine-tuned Hugging Face directory, as an adapter of the base it came from.

That is possible where only biases and the head moved, which is proved tensor by tensor against the
base's own weights; a full fine-tuning is refused with the names of what moved. Biases that did not
move are left out.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bertd import errors, families
from bertd.checkpoint import adapter_file, files, safetensors, sources
from bertd.interchange import converting, records, refusals, tokenizers

SHOWN_NAMES: Final = 5

_TEXTS: Final = (sources.CONFIG, sources.TOKENIZER, sources.TOKENIZER_CONFIG)


def read(
    folder: Path, opened: records.Opened, choices: records.Choices, what: str
) -> records.Imported:
    """Compare a fine-tuned directory with its base, and keep biases and head.

    Raises:
        errors.BadArtifact: reason `OtherShape`, `WeightsMoved`, `MissingHead`, `WrongTokenizer`,
            or as `files.describe` of a checkpoint.
        errors.InvalidRequest: label names do not fit.
    """
    tokenizers.check(folder, opened, what)
    with _tuned(folder, what) as tuned:
        _check_shape(tuned, opened.base, what)
        if tuned.head is None:
            raise refusals.bad(
                what,
                f"has no head: its architecture is {families.quote(tuned.architecture)}",
                "MissingHead",
                hint="fine-tune a ...ForSequenceClassification or ...ForTokenClassification",
            )
        with (
            safetensors.Weights.open(tuned.weights) as theirs,
            safetensors.Weights.open(opened.base.weights) as ours,
        ):
            offsets = _offsets(tuned, theirs, opened.base, ours, what)
            head = _head(tuned, theirs, opened.base)
    chosen = choices.label_names or tuned.label_names
    return records.Imported(
        layout=tuned.head,
        problem=choices.problem or tuned.problem,
        label_names=records.labels(head, chosen, what),
        offsets=offsets,
        head=head,
        origin={"format": "huggingface", "architecture": tuned.architecture},
        notes=() if offsets else ("no bias differs from the base: the head is all there is",),
    )


@contextmanager
def _tuned(folder: Path, what: str) -> Iterator[files.Base]:
    """Describe the directory; its pickled weights are first turned into a file that one can map."""
    pickled = folder / converting.PICKLED
    if pickled.exists() and not any(
        (folder / name).exists() for name in (sources.WEIGHTS, sources.INDEX)
    ):
        with tempfile.TemporaryDirectory(prefix="bertd-import-") as scratch:
            path = Path(scratch, sources.WEIGHTS)
            adapter_file.write_bytes(path, converting.weights(pickled, what))
            texts = {name: folder / name for name in _TEXTS if (folder / name).exists()}
            yield files.describe(texts | {sources.WEIGHTS: path})
    else:
        yield records.open_base(str(folder)).base


def _check_shape(tuned: files.Base, base: files.Base, what: str) -> None:
    for name in families.EncoderShape.__slots__:
        found, wanted = getattr(tuned.shape, name), getattr(base.shape, name)
        if found != wanted:
            raise refusals.bad(
                what,
                f"has another {name} than the base: {families.quote(found)}, not "
                f"{families.quote(wanted)}",
                "OtherShape",
                hint="name the base that it was fine-tuned from",
            )


def _offsets(
    tuned: files.Base,
    theirs: safetensors.Weights,
    base: files.Base,
    ours: safetensors.Weights,
    what: str,
) -> dict[str, NDArray[np.float32]]:
    offsets: dict[str, NDArray[np.float32]] = {}
    moved: dict[str, float] = {}
    for name in families.encoder_names(base.shape):
        if name not in tuned.names or name not in base.names:
            continue  # a pooler that one of the two lacks
        after, before = theirs.array(tuned.names[name]), ours.array(base.names[name])
        if np.array_equal(after, before):
            continue
        difference = after - before
        if name.endswith(".bias"):
            offsets[name] = difference
        else:
            moved[tuned.names[name]] = float(abs(difference).max())
    if moved:
        raise _moved(moved, what)
    return offsets


def _moved(moved: Mapping[str, float], what: str) -> errors.BadArtifact:
    shown = ", ".join(f"{families.quote(name)}" for name in list(moved)[:SHOWN_NAMES])
    more = f" and {len(moved) - SHOWN_NAMES} more" if len(moved) > SHOWN_NAMES else ""
    furthest = max(moved, key=lambda name: moved[name])
    return refusals.bad(
        what,
        f"differs from the base in more than biases and head: {shown}{more}; most in "
        f"{families.quote(furthest)}, by {moved[furthest]:.3g}",
        "WeightsMoved",
        hint="only a BitFit fine-tuning is an adapter; serve this one as a base of its own, or "
        "name the base that it came from",
    )


def _head(
    tuned: files.Base, theirs: safetensors.Weights, base: files.Base
) -> dict[str, NDArray[np.float32]]:
    assert tuned.head is not None
    head = {ours: theirs.array(tuned.names[f"head.{ours}"]).copy() for ours in tuned.head.names}
    if tuned.head.input == "pooler" and not base.has_pooler:
        head |= {name: theirs.array(tuned.names[name]).copy() for name in families.POOLER}
    return head
