"""From a trained model to the adapter file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from bertd import errors, families
from bertd.bitfit import bases, classifier, freezing
from bertd.checkpoint import adapter_file


def round_to_file(
    model: classifier.Classifier, start: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Gives the model, in place, exactly the numbers that its file will hold: offsets, head in F16.

    `start` holds the encoder's parameters before training. Returns the rounded offsets.

    Raises errors.InvalidRequest where training produced something that is no number.
    """
    rounded: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for name, parameter in model.head.named_parameters():
            parameter.copy_(_half(f"head.{name}", parameter))
        for name, moved in freezing.offsets(start, model.encoder).items():
            rounded[name] = _half(name, moved)
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
) -> str:
    """Writes the adapter file and returns its sha256 in hex.

    `offsets` are named as in the bare encoder; those that did not move are left out.
    """
    ours = {theirs: name for name, theirs in families.bias_names(base.shape).items()}
    head = {name: p.detach().cpu().float().numpy() for name, p in model.head.named_parameters()}
    return adapter_file.write(
        path,
        base_digest=base.digest,
        tokenizer_digest=base.tokenizer_digest,
        head=adapter_file.Head(
            kind=model.head.kind, input=model.head_input, problem="single_label"
        ),
        label_names=tuple(label_names),
        offsets={ours[name]: moved.numpy() for name, moved in offsets.items() if moved.any()},
        head_tensors=head,
        training=dict(record),
        dtype="F16",
        shape=base.shape,
    )


def _half(name: str, values: torch.Tensor) -> torch.Tensor:
    rounded = values.half().float()
    if not rounded.isfinite().all():
        raise errors.InvalidRequest(
            f"training diverged: '{name}' holds values that are no numbers",
            hint="lower the learning rates",
        )
    return rounded
