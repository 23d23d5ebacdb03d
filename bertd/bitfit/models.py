"""Adapter files of transformers models that were tuned elsewhere, and back onto such models.

Both directions start from the base's own files, so a file is never made against, or put onto, some
other encoder: every weight is compared.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from bertd import errors, families
from bertd.bitfit import bases, freezing
from bertd.checkpoint import adapter_file

DTYPES = ("F32", "F16")

_PROBLEM_TYPES: Mapping[str, str] = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


def save(
    path: str | Path,
    tuned: PreTrainedModel | Mapping[str, torch.Tensor],
    base: str,
    *,
    architecture: str = "",
    label_names: Sequence[str] = (),
    problem: str = "",
    record: Mapping[str, object] | None = None,
    dtype: str = "F32",
) -> str:
    """Writes the adapter file of a tuned transformers model and returns its sha256 in hex.

    Args:
        path: The file to write.
        tuned: The model with its head, or its state dict.
        base: Where the base is: a directory, `package://...` or `hub://...`.
        architecture: The transformers class that a state dict is of; a model says it itself.
        label_names: The outputs in order; by default the model's `id2label`.
        problem: What the outputs mean; by default what the model's config says, and without one a
            regression where there is one output, else `single_label`.
        record: What the file tells about its training; JSON values.
        dtype: F32, or F16 for half the size and three digits.

    Raises:
        errors.InvalidRequest: More than biases and head differ from the base (naming what), or the
            head is none that bertd knows.
        errors.BadArtifact: The base is not usable, or what was given makes no valid adapter.
    """
    if dtype not in DTYPES:
        raise errors.InvalidRequest(f"`dtype` must be one of {', '.join(DTYPES)}, got '{dtype}'")
    loaded = bases.load(base, families.MAX_POSITIONS)
    state = dict(tuned) if isinstance(tuned, Mapping) else tuned.state_dict()
    layout = _layout(type(tuned).__name__ if isinstance(tuned, PreTrainedModel) else architecture)
    head = _head(state, layout)
    encoder = freezing.bare(state)
    pooler = {ours: encoder.pop(theirs) for ours, theirs in _pooler(loaded, encoder).items()}
    if layout.input == "pooler":
        head |= pooler
    ours = {theirs: name for name, theirs in families.bias_names(loaded.shape).items()}
    moved = freezing.offsets(bases.state(loaded), encoder)
    labels = len(head["out.bias"])
    return adapter_file.write(
        Path(path),
        shape=loaded.shape,
        base_digest=loaded.digest,
        tokenizer_digest=loaded.tokenizer_digest,
        head=adapter_file.Head(
            kind=layout.kind,
            input=layout.input,
            problem=_problem(tuned, layout, problem, labels),
        ),
        label_names=_label_names(tuned, label_names, labels),
        offsets={ours[name]: offset.numpy() for name, offset in moved.items() if offset.any()},
        head_tensors={name: t.detach().cpu().float().numpy() for name, t in head.items()},
        training=record or {},
        dtype=dtype,
    )


def load(path: str | Path, model: PreTrainedModel, base: str) -> adapter_file.AdapterInfo:
    """Puts an adapter onto a transformers model with a head of its kind, in place.

    Biases become the base's plus the file's offsets whatever they were, so one adapter may follow
    another. The head and the names of its labels are replaced.

    Args:
        path: The adapter file.
        model: A model made of `base`, with as many labels as the adapter.
        base: Where the base is: a directory, `package://...` or `hub://...`.

    Raises:
        errors.InvalidRequest: The model's head is another kind, or its weights are not the base's.
        errors.BadArtifact: The file is broken or belongs to another base.
    """
    loaded = bases.load(base, families.MAX_POSITIONS)
    adapter = adapter_file.read_for(Path(path), loaded.described)
    info = adapter.info
    layout = _layout(type(model).__name__)
    _check_head(model, layout, info)
    start = bases.state(loaded)
    state = freezing.bare(model.state_dict())
    poolers = _pooler(loaded, state)
    freezing.offsets(start, {n: t for n, t in state.items() if n not in poolers.values()})
    biases = families.bias_names(loaded.shape)
    with torch.no_grad():
        for ours, theirs in biases.items():
            if theirs in start and theirs in state:
                offset = adapter.offsets.get(ours)
                moved = 0 if offset is None else torch.tensor(offset)
                model.base_model.get_parameter(theirs).copy_(start[theirs] + moved)
        for ours, array in adapter.head.items():
            target = (
                model.base_model.get_parameter(poolers[ours])
                if ours in families.POOLER
                else model.get_parameter(layout.names[ours])
            )
            target.copy_(torch.tensor(array))
    _name_labels(model, info)
    return info


def _layout(architecture: str) -> families.HeadLayout:
    layout = families.head_layout(architecture)
    if layout is None:
        raise errors.InvalidRequest(
            f"'{architecture}' has no head that an adapter can hold",
            hint="use a ...ForSequenceClassification or ...ForTokenClassification; a state dict "
            "needs its `architecture`",
        )
    return layout


def _head(
    state: Mapping[str, torch.Tensor], layout: families.HeadLayout
) -> dict[str, torch.Tensor]:
    for name in layout.names.values():
        if name not in state:
            raise errors.InvalidRequest(f"the tuned model lacks '{name}' of its head")
    return {ours: state[name] for ours, name in layout.names.items()}


def _pooler(base: bases.Base, encoder: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Canonical -> bare names of a pooler that the model has and the base has not."""
    if base.has_pooler or not base.shape.may_have_pooler:
        return {}
    names = families.encoder_names(base.shape)
    return {ours: names[ours] for ours in families.POOLER if names[ours] in encoder}


def _problem(tuned: object, layout: families.HeadLayout, given: str, labels: int) -> str:
    if layout.input == "token":
        return "token"
    declared = getattr(getattr(tuned, "config", None), "problem_type", None)
    known = {theirs: ours for ours, theirs in _PROBLEM_TYPES.items()}
    return given or known.get(str(declared), "regression" if labels == 1 else "single_label")


def _label_names(tuned: object, given: Sequence[str], labels: int) -> tuple[str, ...]:
    named = getattr(getattr(tuned, "config", None), "id2label", None) or {}
    names = tuple(given) or tuple(str(named.get(at, f"LABEL_{at}")) for at in range(labels))
    if len(names) != labels:
        raise errors.InvalidRequest(f"the head has {labels} outputs, got {len(names)} label names")
    return names


def _check_head(
    model: PreTrainedModel, layout: families.HeadLayout, info: adapter_file.AdapterInfo
) -> None:
    if (layout.kind, layout.input) != (info.head.kind, info.head.input):
        raise errors.InvalidRequest(
            f"the adapter has a {info.head.kind} head on {info.head.input}, and "
            f"'{type(model).__name__}' a {layout.kind} one on {layout.input}",
            hint="bertd.engine.session.Session runs every kind",
        )
    labels = len(model.get_parameter(layout.names["out.bias"]))
    if labels != len(info.label_names):
        raise errors.InvalidRequest(
            f"the adapter has {len(info.label_names)} labels, and the model {labels}",
            hint=f"make the model with num_labels={len(info.label_names)}",
        )


def _name_labels(model: PreTrainedModel, info: adapter_file.AdapterInfo) -> None:
    model.config.id2label = dict(enumerate(info.label_names))
    model.config.label2id = {name: at for at, name in enumerate(info.label_names)}
    if info.head.problem in _PROBLEM_TYPES:
        setattr(model.config, "problem_type", _PROBLEM_TYPES[info.head.problem])  # noqa: B010
