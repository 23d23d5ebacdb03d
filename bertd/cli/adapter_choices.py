"""Words that several verbs of `bertd adapter` let one choose from."""

import enum


class Problem(enum.StrEnum):
    """What a head's outputs mean."""

    SINGLE_LABEL = "single_label"
    MULTI_LABEL = "multi_label"
    REGRESSION = "regression"
    TOKEN = "token"


class HeadInput(enum.StrEnum):
    """What a head reads."""

    MEAN = "mean"
    CLS = "cls"
    POOLER = "pooler"
    TOKEN = "token"
