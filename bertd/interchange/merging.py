"""An adapter merged into its base: a plain Hugging Face directory that transformers loads.

Biases are added in float32 and everything is written in float32; the head gets the names and the
architecture that transformers has for it, the config the labels and the problem.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bertd import families
from bertd.checkpoint import adapter_file, beneath, files, safetensors, sources
from bertd.interchange import directories, heads, records, refusals

_COPIED: Final = (sources.TOKENIZER, sources.TOKENIZER_CONFIG, sources.SPECIAL_TOKENS)
_PROBLEM_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "single_label": "single_label_classification",
        "multi_label": "multi_label_classification",
        "regression": "regression",
    }
)


def merge(
    adapter: adapter_file.Adapter, opened: records.Opened, out: Path, what: str = "the adapter"
) -> None:
    """Write the merged model into the new directory `out`. `records.lost` says what gets lost.

    Raises:
        errors.BadArtifact: reason `NotExpressible`: the family has no such head in transformers.
        errors.InvalidRequest: `out` exists.
        errors.Temporary: the disk failed.
    """
    architecture, layout = _architecture(adapter.info.head, opened.base, what)
    weights = _encoder(adapter, opened.base, with_pooler=layout.input == "pooler") | {
        theirs: adapter.head[ours] for ours, theirs in layout.names.items()
    }
    data = safetensors.encode(weights, {"format": "pt"})
    config = _config(adapter.info, opened.base, architecture)
    text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
    copied = {
        name: beneath.read_file(opened.paths[name], sources.MAX_TOKENIZER_BYTES, name)
        for name in _COPIED
        if name in opened.paths
    }
    with directories.new(out) as folder:
        directories.put(folder, {sources.WEIGHTS: data, sources.CONFIG: text.encode(), **copied})


def _architecture(
    head: adapter_file.Head, base: files.Base, what: str
) -> tuple[str, families.HeadLayout]:
    known = heads.layouts(base)
    for name, layout in known.items():
        if (layout.kind, layout.input) == (head.kind, head.input):
            return name, layout
    have = ", ".join(f"{name} '{at.kind}' on '{at.input}'" for name, at in known.items())
    sequence = next(iter(known.values()))
    raise refusals.bad(
        what,
        f"has a head '{head.kind}' on '{head.input}', which transformers does not have for "
        f"this family: {have}",
        "NotExpressible",
        hint=f"serve it with bertd, or train it with --head {sequence.kind} "
        f"--head-input {sequence.input}",
    )


def _encoder(
    adapter: adapter_file.Adapter, base: files.Base, *, with_pooler: bool
) -> dict[str, NDArray[np.float32]]:
    before = heads.prefix(base)
    names = families.encoder_names(base.shape)
    merged: dict[str, NDArray[np.float32]] = {}
    with safetensors.Weights.open(base.weights) as weights:
        for ours in names:
            if ours in base.names and (with_pooler or ours not in families.POOLER):
                array = weights.array(base.names[ours])
                offset = adapter.offsets.get(ours)
                merged[before + names[ours]] = array if offset is None else array + offset
    # A pooler of the adapter's own: its bias is absolute, as its weight is.
    own = [ours for ours in families.POOLER if ours in adapter.head]
    return merged | {before + names[ours]: adapter.head[ours] for ours in own}


def _config(
    info: adapter_file.AdapterInfo, base: files.Base, architecture: str
) -> dict[str, object]:
    config = {k: v for k, v in base.config.items() if k not in ("torch_dtype", "num_labels")}
    config |= {
        "architectures": [architecture],
        "dtype": "float32",
        "id2label": {str(index): name for index, name in enumerate(info.label_names)},
        "label2id": {name: index for index, name in enumerate(info.label_names)},
    }
    config.pop("problem_type", None)
    if info.head.problem in _PROBLEM_TYPES:
        config["problem_type"] = _PROBLEM_TYPES[info.head.problem]
    return config
