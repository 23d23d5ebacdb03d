"""PEFT's BEFT adapters: a directory of `adapter_config.json` and one file of tensors.

BEFT adds a trained vector to the outputs of linear layers: an offset of their bias. Tensors are
named 'base_model.model.' + module + '.beft_bias' ([1, outputs]); those of modules that were
trained whole (`modules_to_save`), such as the head, carry their own names.
Source of the method: BEFT, https://arxiv.org/abs/2509.15974; of the format: PEFT 0.21.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bertd import families
from bertd.checkpoint import beneath, files, json_text, safetensors, sources
from bertd.interchange import heads, records, refusals, tensors, tokenizers

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
PICKLED: Final = "adapter_model.bin"

_WRAPPER: Final = "base_model.model."
_SUFFIX: Final = ".beft_bias"


def read(
    folder: Path, opened: records.Opened, choices: records.Choices, what: str
) -> records.Imported:
    """Read a BEFT adapter of this base. A file without a head serves with the base's own.

    Raises:
        errors.BadArtifact: reason `NotBeft`, `UnknownTensor`, `WrongShape`, `UnsupportedDtype`,
            `MissingHead`, `WrongTokenizer` or as `tensors.unpickled`, naming the tensor.
        errors.InvalidRequest: label names do not fit.
    """
    base = opened.base
    task = _check_config(folder, what)
    tokenizers.check(folder, opened, what, required=False)
    found = _tensors(folder, what)
    offsets, rest = _sort(found, base, what)
    asked = choices.head_input or ("token" if task == "TOKEN_CLS" else "")
    if rest:
        layout = heads.find(rest, base, asked, what)
        head = {ours: rest[theirs] for ours, theirs in layout.names.items()}
        label_names = records.labels(head, choices.label_names, what)
        problem = records.problem(layout, label_names, choices.problem)
    else:
        layout, head = _base_head(base, asked, what)
        label_names = records.labels(head, choices.label_names or base.label_names, what)
        problem = choices.problem or base.problem
    return records.Imported(
        layout=layout,
        problem=problem,
        label_names=label_names,
        offsets=offsets,
        head=head,
        origin={"format": "peft", "offsets": len(offsets)},
        notes=() if rest else ("took the head of the base: the file has none",),
    )


def _check_config(folder: Path, what: str) -> str:
    text = beneath.read_file(folder / CONFIG, sources.MAX_JSON_BYTES, f"{CONFIG} of {what}")
    config = json_text.parse_object(text, f"{CONFIG} of {what}")
    kind = config.get("peft_type")
    if kind != "BEFT":
        raise refusals.bad(
            what,
            f"is a PEFT adapter of type {families.quote(kind)}; bertd imports 'BEFT'",
            "NotBeft",
            hint="merge it into its base with PEFT and serve the result as a base",
        )
    return str(config.get("task_type"))


def _tensors(folder: Path, what: str) -> Mapping[str, NDArray[np.float32]]:
    if (folder / WEIGHTS).exists():
        found = tensors.of_safetensors(folder / WEIGHTS, f"{WEIGHTS} of {what}")
    else:
        try:
            with open(folder / PICKLED, "rb") as file:
                found = tensors.unpickled(file.fileno(), f"{PICKLED} of {what}")
        except OSError as error:
            beneath.refuse(error, f"{WEIGHTS} of {what}")
    for name, dtype in found.dtypes.items():
        raise refusals.bad(
            what,
            f"has {families.quote(name)} with dtype {families.quote(dtype)}; it must be one of "
            f"{', '.join(safetensors.FLOATS)}",
            "UnsupportedDtype",
        )
    return found.arrays


def _sort(
    found: Mapping[str, NDArray[np.float32]], base: files.Base, what: str
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Offsets by canonical name, and what else there is by its name in the model."""
    shapes = families.tensor_shapes(base.shape)
    biases = {theirs: ours for ours, theirs in families.bias_names(base.shape).items()}
    offsets: dict[str, NDArray[np.float32]] = {}
    rest: dict[str, NDArray[np.float32]] = {}
    for name, array in found.items():
        plain = name.removeprefix(_WRAPPER)
        if not plain.endswith(_SUFFIX):
            rest[plain] = array
            continue
        bias = families.normalise(plain.removesuffix(_SUFFIX), base.family) + ".bias"
        ours = biases.get(bias)
        if ours is None:
            raise refusals.bad(
                what,
                f"offsets the unknown {families.quote(name)}",
                "UnknownTensor",
                hint=families.did_you_mean(bias, list(biases)),
            )
        if array.shape not in (shapes[ours], (1, *shapes[ours])):
            raise refusals.bad(
                what,
                f"has {families.quote(name)} with shape {list(array.shape)}; it must be "
                f"{[1, *shapes[ours]]}",
                "WrongShape",
            )
        if ours in offsets:
            raise refusals.bad(
                what, f"holds {families.quote(name)} under two names", "UnknownTensor"
            )
        offsets[ours] = array.reshape(shapes[ours])
    return offsets, rest


def _base_head(
    base: files.Base, asked: str, what: str
) -> tuple[families.HeadLayout, dict[str, NDArray[np.float32]]]:
    if base.head is None:
        raise refusals.bad(
            what,
            "has no head, and neither has the base",
            "MissingHead",
            hint="train it with modules_to_save=['classifier'], or name a base with a head",
        )
    if asked not in ("", base.head.input):
        raise refusals.bad(
            what,
            f"has no head, and that of the base reads '{base.head.input}', not '{asked}'",
            "MissingHead",
            hint="train it with modules_to_save=['classifier']",
        )
    with safetensors.Weights.open(base.weights) as weights:
        names = base.names
        head = {ours: weights.array(names[f"head.{ours}"]).copy() for ours in base.head.names}
    return base.head, head
