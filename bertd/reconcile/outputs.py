"""How an adapter's logits become answers: the file's settings, overridden by the declaration."""

from collections.abc import Mapping

from bertd import errors
from bertd.checkpoint import adapter_file
from bertd.checkpoint import files as checkpoint_files
from bertd.manifest import spec as manifest_spec
from bertd.runtime import router

Declared = manifest_spec.InlineAdapter | manifest_spec.AdapterSpec


def of_base(base: checkpoint_files.Base) -> router.Output | None:
    """The checkpoint's own head, if it has one."""
    if base.head is None:
        return None
    return router.Output(label_names=base.label_names, problem=base.problem)


def of_adapter(info: adapter_file.AdapterInfo, declared: Declared) -> router.Output:
    """The adapter's output as declared.

    Raises:
        BadArtifact: the declaration names more, fewer or other labels than the file has.
    """
    names = info.label_names if declared.label_names is None else declared.label_names
    if len(names) != len(info.label_names):
        raise errors.BadArtifact(
            f"`labelNames` has {len(names)} names, but the adapter has {len(info.label_names)} "
            "outputs",
            reason="LabelMismatch",
        )
    renamed = dict(zip(info.label_names, names, strict=True))
    thresholds = declared.thresholds
    if thresholds is None:
        thresholds = {renamed[name]: value for name, value in info.thresholds.items()}
    _check_thresholds(thresholds, names)
    return router.Output(
        label_names=names,
        problem=info.head.problem,
        temperature=info.temperature if declared.temperature is None else declared.temperature,
        thresholds=thresholds,
    )


def _check_thresholds(thresholds: Mapping[str, float], names: tuple[str, ...]) -> None:
    unknown = [name for name in thresholds if name not in names]
    if unknown:
        raise errors.BadArtifact(
            f"`thresholds` names '{unknown[0]}', which is none of the labels {', '.join(names)}",
            reason="LabelMismatch",
        )
