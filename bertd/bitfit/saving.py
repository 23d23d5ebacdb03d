"""From a trained model to the adapter file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from bertd import errors, families
from bertd.bitfit import bases, classifier, freezing, problems
from bertd.checkpoint import adapter_file


def dtype(problem: str) -> str:
    """F16, but F32 for a regression, whose values may lie far from 0: F16 has three digits."""
    return "F32" if problem == "regression" else "F16"


def round_to_file(
    model: classifier.Classifier, start: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Gives the model, in place, exactly the numbers that its file will hold.

    `start` holds the encoder's parameters before training. Returns the rounded offsets.

    Raises errors.InvalidRequest where training produced something that is no number.
    """
    rounded: dict[str, torch.Tensor] = {}
    stored = torch.float16 if dtype(model.problem) == "F16" else torch.float32
    model.fold_units()
    with torch.no_grad():
        for name, parameter in model.head.named_parameters():
            parameter.copy_(_rounded(f"head.{name}", parameter, stored))
        for name, moved in freezing.offsets(start, model.encoder).items():
            rounded[name] = _rounded(name, moved, stored)
            target = model.encoder.get_parameter(name)
            target.copy_(start[name] + rounded[name].to(target.device))
    return rounded


def save(
    path: Path,
    model: classifier.Classifier,
    offsets: Mapping[str, torch.Tensor],
    base: bases.Base,
    label_names: Sequence[str],
    record: Mapping[str, object],
    rule: problems.Rule | None = None,
) -> str:
    """Writes the adapter file and returns its sha256 in hex.

    `offsets` are named as in the bare encoder; those that did not move are left out.
    """
    ours = {theirs: name for name, theirs in families.bias_names(base.shape).items()}
    rule = rule or problems.Rule()
    head = {name: p.detach().cpu().float().numpy() for name, p in model.head.named_parameters()}
    return adapter_file.write(
        path,
        base_digest=base.digest,
        tokenizer_digest=base.tokenizer_digest,
        head=adapter_file.Head(kind=model.head.kind, input=model.head_input, problem=model.problem),
        label_names=tuple(label_names),
        offsets={ours[name]: moved.numpy() for name, moved in offsets.items() if moved.any()},
        head_tensors=head,
        temperature=rule.temperature,
        thresholds=rule.thresholds,
        training=dict(record),
        dtype=dtype(model.problem),
        shape=base.shape,
    )


def _rounded(name: str, values: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
    rounded = values.to(stored).float()
    if not rounded.isfinite().all():
        raise errors.InvalidRequest(
            f"training diverged: '{name}' holds values that are no numbers",
            hint="lower the learning rates",
        )
    return rounded
