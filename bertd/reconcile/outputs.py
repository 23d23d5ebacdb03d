"""How an adapter's logits become answers: the file's settings, overridden by the declaration."""

from collections.abc import Mapping

from bertd import errors
from bertd.checkpoint import files as checkpoint_files
from bertd.manifest import spec as manifest_spec
from bertd.runtime import router

Declared = manifest_spec.InlineAdapter | manifest_spec.AdapterSpec


def of_base(base: checkpoint_files.Base) -> router.Output | None:
    """The checkpoint's own head, if it has one."""
    if base.head is None:
        return None
    return router.Output(label_names=base.label_names, problem=base.problem)


def declared(own: router.Output, by: Declared) -> router.Output:
    """The output of an adapter's file with what its declaration says instead.

    Raises:
        BadArtifact: the declaration names more, fewer or other labels than the file has.
    """
    if by.label_names is None and by.temperature is None and by.thresholds is None:
        return own
    names = own.label_names if by.label_names is None else by.label_names
    if len(names) != len(own.label_names):
        raise errors.BadArtifact(
            f"`labelNames` has {len(names)} names, but the adapter has {len(own.label_names)} "
            "outputs",
            reason="LabelMismatch",
        )
    renamed = dict(zip(own.label_names, names, strict=True))
    thresholds = by.thresholds
    if thresholds is None:
        thresholds = {renamed[name]: value for name, value in own.thresholds.items()}
    _check_thresholds(thresholds, names)
    return router.Output(
        label_names=names,
        problem=own.problem,
        temperature=own.temperature if by.temperature is None else by.temperature,
        thresholds=thresholds,
    )


def _check_thresholds(thresholds: Mapping[str, float], names: tuple[str, ...]) -> None:
    unknown = [name for name in thresholds if name not in names]
    if unknown:
        raise errors.BadArtifact(
            f"`thresholds` names '{unknown[0]}', which is none of the labels {', '.join(names)}",
            reason="LabelMismatch",
        )
