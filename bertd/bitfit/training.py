"""The whole way from labelled text to an adapter file.

What the file will hold is rounded before it is judged for the last time, so the recorded values
are those of the file.
"""

import statistics
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np
import torch
import transformers

from bertd import errors
from bertd.bitfit import (
    bases,
    calibration,
    classifier,
    freezing,
    loop,
    losses,
    problems,
    rows,
    saving,
    tables,
)
from bertd.bitfit.config import TrainConfig, TrainResult


def train(config: TrainConfig, *, date: str = "", report: loop.Report | None = None) -> TrainResult:
    """Trains an adapter and writes it to `config.output`.

    Args:
        config: What to do.
        date: Goes into the record as it is; the file depends on nothing else but the config.
        report: Called after every step and every epoch.

    Raises:
        errors.InvalidRequest: Something about the data or the config, naming file and line. Where
            it is the evaluation data, the adapter was written.
        errors.BadArtifact: The base model is not usable.
    """
    _check_paths(config)
    problem = problems.BY_NAME[config.problem]
    base = bases.load(config.base, config.max_length)
    table = tables.read(config.data, config.columns, config.problem)
    names = problem.label_names(table, config.labels)
    metric = config.best_by(names)
    learn, validate = _examples(table, problem, names, base, config)
    model = build(base, learn, config)
    start = {name: p.detach().clone() for name, p in model.encoder.named_parameters()}
    best = loop.fit(
        model,
        learn,
        lambda: loop.judge(model, validate, base.pad)[metric],
        base.pad,
        config,
        report,
        metric=metric,
    )
    offsets = saving.round_to_file(model, start)
    rule, fitted = _fit_rule(model, validate, base.pad, config)
    validation = loop.judge(model, validate, base.pad, rule)
    evaluation = evaluated = failure = None
    try:
        evaluation, evaluated = _evaluate(model, validate, base, config, rule)
    except errors.InvalidRequest as error:
        failure = error  # what was learned must not be lost with it
    record = {
        "data": {"file": table.path.name, "sha256": table.digest, "rows": len(table.labels)},
        "metric": metric,
        "validation": {"rows": len(validate), **validation},
        "evaluation": evaluated,
        **fitted,
        "bestEpoch": best.epoch,
        "history": best.history,
        **_settings(config),
        "versions": {name: metadata.version(name) for name in ("bertd", "torch", "transformers")},
        "date": date,
    }
    digest = saving.save(config.output, model, offsets, base, names, record, rule)
    if failure is not None:
        raise errors.InvalidRequest(
            f"{failure.message}; {config.output} was written without evaluation",
            hint="mend the data, and measure the file with `bertd adapter evaluate`",
        )
    return TrainResult(
        output=config.output,
        digest=digest,
        file_bytes=config.output.stat().st_size,
        label_names=names,
        trainable=tuple(model.trainable()),
        best_epoch=best.epoch,
        metric=metric,
        history=tuple(best.history),
        validation=validation,
        evaluation=evaluation,
        record=record,
    )


def _check_paths(config: TrainConfig) -> None:
    """What would otherwise be found out only after hours of training."""
    if config.evaluation is not None and not config.evaluation.is_file():
        raise errors.InvalidRequest(f"{config.evaluation}: no such file")
    if not config.output.parent.is_dir():
        raise errors.InvalidRequest(f"{config.output.parent}: no such directory to write to")
    if config.output.is_dir():
        raise errors.InvalidRequest(f"{config.output}: is a directory", hint="name a file in it")
    read = (config.data, config.evaluation)
    if any(path is not None and path.resolve() == config.output.resolve() for path in read):
        raise errors.InvalidRequest(f"{config.output}: is the data, which must stay as it is")


def _examples(
    table: tables.Table,
    problem: problems.Problem[Any],
    names: tuple[str, ...],
    base: bases.Base,
    config: TrainConfig,
) -> tuple[rows.Examples, rows.Examples]:
    truth = problem.truth(table, names)
    encoded = rows.encode(base.tokenizer, table)
    learn, validate = tables.split(problem.strata(truth), config.validation, config.seed)
    if not validate:
        what = "some label in two rows" if config.problem == "single_label" else "two rows"
        raise errors.InvalidRequest(f"{table.path}: must have {what} or more")
    learning, validating = (
        rows.Examples(problem, names, [encoded[row] for row in part], [truth[row] for row in part])
        for part in (learn, validate)
    )
    return learning, validating


def build(base: bases.Base, learn: rows.Examples, config: TrainConfig) -> classifier.Classifier:
    """Everything random in it, dropout while training included, comes from the config's seed."""
    transformers.set_seed(config.seed)
    encoder = bases.encoder(base, config.dropout, pooler=config.reads == "pooler")
    dropout = bases.hidden_dropout(encoder)
    labels = len(learn.names)
    weights = losses.weights(config.problem, learn.marks(), labels, config.balance)
    model = classifier.Classifier(
        encoder,
        classifier.Head(config.head_kind, base.shape.hidden, labels, dropout),
        config.reads,
        torch.tensor(weights),
        problem=config.problem,
        units=_units(learn, config.problem),
        bf16=config.precision == "bf16",
    )
    freezing.freeze(encoder, config.biases)
    for name, parameter in encoder.named_parameters():
        unread = name.startswith("pooler.") and config.reads != "pooler"
        if unread or name in base.key_biases:
            parameter.requires_grad_(False)
    if config.biases and not freezing.trainable(encoder):
        raise errors.InvalidRequest(
            f"no bias of `biases` ({', '.join(config.biases)}) can change an answer",
            hint="key biases cancel, and the pooler is read by the head input 'pooler' alone",
        )
    return model


def _units(learn: rows.Examples, problem: str) -> tuple[float, float]:
    """Mean and spread of a regression's numbers; 0 and 1 for everything else."""
    if problem != "regression":
        return 0.0, 1.0
    return statistics.fmean(learn.truth), statistics.pstdev(learn.truth) or 1.0


def _fit_rule(
    model: classifier.Classifier, validate: rows.Examples, pad: rows.Pad, config: TrainConfig
) -> tuple[problems.Rule, dict[str, object]]:
    """The temperature and thresholds that the config asks for, and their record."""
    if not config.calibrate and not config.fit_thresholds:
        return problems.Rule(), {}
    logits_NC = np.concatenate(loop.logits(model, validate, pad)).astype(np.float64)
    hot_NC = calibration.hot(validate.marks(), len(validate.names))
    asked_N = ~np.isnan(logits_NC[:, 0])
    logits_NC, hot_NC = logits_NC[asked_N], hot_NC[asked_N]
    if not len(logits_NC):
        raise errors.InvalidRequest(
            "no word of the validation rows has a token to calibrate on", hint="raise `max_length`"
        )
    temperature, record = 1.0, dict[str, object]()
    if config.calibrate:
        fitted = calibration.temperature(config.problem, logits_NC, hot_NC)
        temperature = fitted.value
        record["calibration"] = {
            "rows": len(logits_NC),
            "temperature": temperature,
            "nllBefore": fitted.before,
            "nllAfter": fitted.after,
        }
    thresholds: dict[str, float] = {}
    if config.fit_thresholds:
        scores_NC = problems.probabilities(config.problem, logits_NC / temperature)
        thresholds = calibration.thresholds(scores_NC, hot_NC, validate.names)
        record["thresholds"] = thresholds
    return problems.Rule(temperature=temperature, thresholds=thresholds), record


def _evaluate(
    model: classifier.Classifier,
    like: rows.Examples,
    base: bases.Base,
    config: TrainConfig,
    rule: problems.Rule,
) -> tuple[Mapping[str, float] | None, Mapping[str, object] | None]:
    """Reads the evaluation file, for the first and last time; the values, and their record."""
    if config.evaluation is None:
        return None, None
    table = tables.read(config.evaluation, config.columns, config.problem)
    truth = like.problem.truth(table, like.names)
    examples = rows.Examples(like.problem, like.names, rows.encode(base.tokenizer, table), truth)
    values = loop.judge(model, examples, base.pad, rule)
    source = {"file": table.path.name, "sha256": table.digest, "rows": len(truth)}
    return values, source | values


def _settings(config: TrainConfig) -> dict[str, object]:
    return {
        "epochs": config.epochs,
        "batchRows": config.batch_rows,
        "biasRate": config.bias_rate,
        "headRate": config.head_rate,
        "warmup": config.warmup,
        "dropout": config.dropout,
        "balance": config.balance,
        "biases": list(config.biases),
        "maxLength": config.max_length,
        "precision": config.precision,
        "seed": config.seed,
    }
