"""Which parameters BitFit may move, and how far it moved them.

The keyword rule is BitInfer's, so that what was selected there selects the same here. It differs
in two places on purpose: a keyword that matches nothing is an error, and MPNet's
`relative_attention_bias.weight`, an embedding table with an unlucky name, stays frozen.
"""

from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedModel

from bertd import errors

ALL = "all"


def freeze(model: PreTrainedModel, learnable_biases: str | Sequence[str] = ALL) -> list[str]:
    """Freezes the encoder but for chosen biases, in place; returns the names that stay trainable.

    Within `model.base_model` a parameter stays trainable if it is a bias and its name contains one
    of the keywords; `all` means every bias. Parameters outside (a head) stay as they are.

    Raises errors.InvalidRequest for a keyword that matches no bias.
    """
    keywords = [learnable_biases] if isinstance(learnable_biases, str) else list(learnable_biases)
    encoder = model.base_model
    biases = [name for name, _ in encoder.named_parameters() if name.endswith("bias")]
    for keyword in keywords:
        if keyword != ALL and not any(keyword in name for name in biases):
            raise errors.InvalidRequest(
                f"no bias of the encoder has '{keyword}' in its name",
                hint=f"names look like '{biases[0]}'" if biases else "",
            )
    kept = {name for name in biases if any(k == ALL or k in name for k in keywords)}
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name in kept)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def offsets(
    base_state: Mapping[str, torch.Tensor], tuned: PreTrainedModel
) -> dict[str, torch.Tensor]:
    """Tuned minus base, element by element, of every trainable parameter of the tuned encoder.

    Both sides are named as in the bare encoder (`encoder.layer.0.output.dense.bias`). The results
    are new fp32 tensors on the CPU.

    Raises errors.InvalidRequest where the base has no such parameter or one of another shape.
    """
    moved: dict[str, torch.Tensor] = {}
    for name, parameter in tuned.base_model.named_parameters():
        if not parameter.requires_grad:
            continue
        base = base_state.get(name)
        if base is None or base.shape != parameter.shape:
            found = "none" if base is None else str(tuple(base.shape))
            wanted = tuple(parameter.shape)
            raise errors.InvalidRequest(f"the base must hold '{name}' {wanted}, found {found}")
        moved[name] = parameter.detach().cpu().float() - base.detach().cpu().float()
    return moved
