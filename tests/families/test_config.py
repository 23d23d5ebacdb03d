"""A config that bertd cannot serve exactly is refused, naming the key."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertd import errors, families

BERT: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 30,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 20,
}
HUGE = 10**100


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"model_type": None}, "BadConfig", "`model_type` is missing"),
        ({"model_type": "gpt2"}, "UnsupportedArchitecture", "'gpt2'"),
        ({"model_type": ["bert"]}, "UnsupportedArchitecture", "a list of 1 items"),
        ({"hidden_size": None}, "BadConfig", "`hidden_size` is missing"),
        ({"hidden_size": "8"}, "BadConfig", "`hidden_size` must be a whole number"),
        ({"hidden_size": True}, "BadConfig", "`hidden_size` must be a whole number"),
        ({"hidden_size": 9}, "BadConfig", "multiple of the 2 attention heads"),
        ({"hidden_size": 0}, "BadConfig", "between 1 and 16384"),
        ({"hidden_size": HUGE}, "BadConfig", "a number of more than 128 bits"),
        ({"num_hidden_layers": 100_000}, "BadConfig", "`num_hidden_layers` must lie"),
        ({"num_attention_heads": 1_000}, "BadConfig", "`num_attention_heads` must lie"),
        ({"intermediate_size": 10**9}, "BadConfig", "`intermediate_size` must lie"),
        ({"vocab_size": 10**9}, "BadConfig", "`vocab_size` must lie"),
        ({"max_position_embeddings": 10**9}, "BadConfig", "`max_position_embeddings` must lie"),
        ({"type_vocab_size": 0}, "BadConfig", "`type_vocab_size` must lie"),
        ({"layer_norm_eps": "x"}, "BadConfig", "`layer_norm_eps` must be a number"),
        ({"layer_norm_eps": 0}, "BadConfig", "`layer_norm_eps` must lie between 0 and 1"),
        ({"layer_norm_eps": float("nan")}, "BadConfig", "`layer_norm_eps` must lie"),
        ({"hidden_act": "swish"}, "UnsupportedArchitecture", "`hidden_act` must be one of"),
        ({"hidden_act": {}}, "UnsupportedArchitecture", "`hidden_act` must be one of"),
        ({"is_decoder": True}, "UnsupportedArchitecture", "`is_decoder` must be false"),
        ({"add_cross_attention": True}, "UnsupportedArchitecture", "`add_cross_attention`"),
        ({"pruned_heads": {"0": [1]}}, "UnsupportedArchitecture", "`pruned_heads`"),
        (
            {"model_type": "roberta", "max_position_embeddings": 2},
            "BadConfig",
            "`max_position_embeddings` must be over 2",
        ),
        (
            {"model_type": "mpnet", "relative_attention_num_buckets": 64},
            "BadConfig",
            "`relative_attention_num_buckets` must lie between 32 and 32",
        ),
    ],
)  # fmt: skip
def test_a_bad_key_is_named(change: dict[str, Any], reason: str, words: str) -> None:
    """Absurd sizes, wrong types and other arithmetic are each refused naming key and value."""
    with pytest.raises(errors.BadArtifact, match=r"config\.json") as caught:
        families.shape(BERT | change)
    assert caught.value.reason == reason
    assert words in caught.value.message


@pytest.mark.parametrize("key", ["auto_map", "trust_remote_code"])
def test_code_that_comes_with_a_checkpoint_is_refused(key: str) -> None:
    """A config that asks for remote code never serves (checklist 85)."""
    with pytest.raises(errors.BadArtifact, match="code that comes with") as caught:
        families.shape(BERT | {key: {"AutoModel": "modeling.MyModel"}})
    assert caught.value.reason == "RemoteCode"


@pytest.mark.parametrize("positions", ["relative_key", "relative_key_query", "rotary", 7])
def test_positions_in_the_attention_are_refused(positions: object) -> None:
    """Only absolute positions serve; where folding would be wrong, the message says why."""
    config = BERT | {"position_embedding_type": positions}
    with pytest.raises(errors.BadArtifact, match="`position_embedding_type` must be") as caught:
        families.shape(config)
    folds = positions == "relative_key"
    assert ("does not cancel" in caught.value.message) != folds
    assert (families.fold_refusal(config) is None) == folds


def test_folding_is_refused_before_a_sublayer_norm() -> None:
    """A pre-LN architecture is named as one where biases do not move."""
    assert families.fold_refusal(BERT) is None
    why = families.fold_refusal({"model_type": "modernbert"})
    assert why is not None
    assert "normalises before" in why


ODD_VALUES = (
    None, True, 0, -1, 3, HUGE, -HUGE, 1.5, float("nan"), float("inf"), "", "x", "\ud800", "\n",
    [], [1], {}, {"a": None},
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from([*BERT, "layer_norm_eps", "hidden_act", "auto_map", "pad_token_id"]),
        st.sampled_from(ODD_VALUES),
    )
)
def test_no_config_raises_anything_else(change: dict[str, Any]) -> None:
    """Whatever a config holds, the outcome is a shape or BadArtifact with a printable message."""
    with suppress(errors.BadArtifact):
        shape = families.shape(BERT | change)
        assert families.tensor_shapes(shape).keys() == families.encoder_names(shape).keys()


@pytest.mark.parametrize("value", ["\ud800", "a\nb", "x" * 1_000, HUGE, [HUGE], {"k": "v"}])
def test_quoted_values_are_short_and_printable(value: object) -> None:
    """A literal in a message can always be printed and sent, whatever the file held."""
    quoted = families.quote(value)
    assert quoted.isprintable()
    assert len(quoted) <= families.MAX_QUOTED_CHARACTERS
