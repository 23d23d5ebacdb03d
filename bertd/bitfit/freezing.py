"""Which parameters BitFit may move, and how far it moved them.

The keyword rule is BitInfer's, so that what was selected there selects the same here. It differs
in two places on purpose: a keyword that matches nothing is an error, and MPNet's
`relative_attention_bias.weight`, an embedding table with an unlucky name, stays frozen.
"""

from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedModel

from bertd import errors, families

ALL = "all"
# The modules of the heads that an adapter can hold, and buffers without an effect of their own.
HEADS = frozenset({"classifier", "pre_classifier"})
BUFFERS = frozenset({"embeddings.position_ids", "embeddings.token_type_ids"})
FAMILIES = ("bert", "roberta", "distilbert", "electra", "mpnet")

Encoder = PreTrainedModel | Mapping[str, torch.Tensor]


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
    return trainable(model)


def trainable(model: torch.nn.Module) -> list[str]:
    """The names of all parameters that learn, the head's included."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def offsets(base: Encoder, tuned: Encoder) -> dict[str, torch.Tensor]:
    """Tuned minus base, element by element, of the biases of an encoder.

    Of a tuned model these are the biases that are trainable; of a state dict all that it has. A
    state dict may have its family's prefix (`bert.`) and a head, which is left out. The results
    are new fp32 tensors on the CPU, named as in the bare encoder
    (`encoder.layer.0.output.dense.bias`).

    Raises errors.InvalidRequest, naming the entry, where a weight has moved, or the base has no
    such parameter or one of another shape.
    """
    start = bare(base)
    moved: dict[str, torch.Tensor] = {}
    for name, tensor in _changeable(tuned).items():
        if _is_beside_the_encoder(name):
            continue
        found = start.get(name)
        if found is None or found.shape != tensor.shape:
            said = "none" if found is None else str(tuple(found.shape))
            wanted = tuple(tensor.shape)
            raise errors.InvalidRequest(f"the base must hold '{name}' {wanted}, found {said}")
        difference = tensor.detach().cpu().float() - found.detach().cpu().float()
        if name.endswith("bias"):
            moved[name] = difference
        elif difference.any():
            raise errors.InvalidRequest(
                f"only biases may move, and '{name}' lies up to "
                f"{float(difference.abs().max()):.3g} away from the base",
                hint="call freezing.freeze before training; is this the right base?",
            )
    return moved


def bare(encoder: Encoder) -> dict[str, torch.Tensor]:
    """All of an encoder's tensors under the names that they have in the bare model."""
    if isinstance(encoder, torch.nn.Module):
        return dict(encoder.base_model.named_parameters())
    prefixes = (f for f in FAMILIES if any(f".{f}." in f".{name}" for name in encoder))
    family = next(prefixes, "")
    return {families.normalise(name, family): tensor for name, tensor in encoder.items()}


def _changeable(tuned: Encoder) -> dict[str, torch.Tensor]:
    named = bare(tuned)
    if isinstance(tuned, torch.nn.Module):
        return {name: tensor for name, tensor in named.items() if tensor.requires_grad}
    return named


def _is_beside_the_encoder(name: str) -> bool:
    """A head's tensor, or a buffer that some checkpoints keep."""
    return name in BUFFERS or name.partition(".")[0] in HEADS
