"""The whole way from labelled text to an adapter file.

What the file will hold is rounded to F16 before it is judged for the last time, so the recorded
values are those of the file.
"""

from collections.abc import Mapping
from importlib import metadata

import transformers

from bertd import errors
from bertd.bitfit import bases, classifier, freezing, loop, rows, saving, tables
from bertd.bitfit.config import TrainConfig, TrainResult


def train(config: TrainConfig, *, date: str = "", report: loop.Report | None = None) -> TrainResult:
    """Trains an adapter and writes it to `config.output`.

    Args:
        config: What to do.
        date: Goes into the record as it is; the file depends on nothing else but the config.
        report: Called after every step and every epoch.

    Raises:
        errors.InvalidRequest: Something about the data or the config, naming file and line.
        errors.BadArtifact: The base model is not usable.
    """
    _check_paths(config)
    base = bases.load(config.base, config.max_length)
    table = tables.read(config.data, config.columns)
    names = tables.label_names(table, config.labels)
    learn, validate = _examples(table, names, base, config)
    model = build(base, learn, len(names), config)
    start = {name: p.detach().clone() for name, p in model.encoder.named_parameters()}
    best = loop.fit(
        model,
        learn,
        lambda: loop.judge(model, validate, base.pad)[config.metric],
        base.pad,
        config,
        report,
    )
    offsets = saving.round_to_file(model, start)
    validation = loop.judge(model, validate, base.pad)
    evaluation, evaluated = _evaluate(model, names, base, config)
    record = {
        "data": {"file": table.path.name, "sha256": table.digest, "rows": len(table.labels)},
        "metric": config.metric,
        "validation": {"rows": len(validate), **validation},
        "evaluation": evaluated,
        "bestEpoch": best.epoch,
        "history": best.history,
        **_settings(config),
        "versions": {name: metadata.version(name) for name in ("bertd", "torch", "transformers")},
        "date": date,
    }
    digest = saving.save(config.output, model, offsets, base, names, record)
    return TrainResult(
        output=config.output,
        digest=digest,
        file_bytes=config.output.stat().st_size,
        label_names=names,
        trainable=tuple(model.trainable()),
        best_epoch=best.epoch,
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


def _examples(
    table: tables.Table, names: tuple[str, ...], base: bases.Base, config: TrainConfig
) -> tuple[rows.Examples, rows.Examples]:
    truth = tables.classes(table, names)
    encoded = rows.encode(base.tokenizer, table.texts)
    learn, validate = tables.split(truth, config.validation, config.seed)
    if not validate:
        raise errors.InvalidRequest(f"{table.path}: must have some label in two rows or more")
    learning, validating = (
        rows.Examples([encoded[row] for row in part], [truth[row] for row in part])
        for part in (learn, validate)
    )
    return learning, validating


def build(
    base: bases.Base, learn: rows.Examples, labels: int, config: TrainConfig
) -> classifier.Classifier:
    """Everything random in it, dropout while training included, comes from the config's seed."""
    transformers.set_seed(config.seed)
    encoder = bases.encoder(base, config.dropout, pooler=config.head_input == "pooler")
    dropout = bases.hidden_dropout(encoder)
    model = classifier.Classifier(
        encoder,
        classifier.Head(config.head_kind, base.shape.hidden, labels, dropout),
        config.head_input,
        classifier.class_weights(learn.truth(), labels, config.balance),
        bf16=config.precision == "bf16",
    )
    freezing.freeze(encoder, config.biases)
    for name, parameter in encoder.named_parameters():
        unread = name.startswith("pooler.") and config.head_input != "pooler"
        if unread or name in base.key_biases:
            parameter.requires_grad_(False)
    return model


def _evaluate(
    model: classifier.Classifier, names: tuple[str, ...], base: bases.Base, config: TrainConfig
) -> tuple[Mapping[str, float] | None, Mapping[str, object] | None]:
    """Reads the evaluation file, for the first and last time; the values, and their record."""
    if config.evaluation is None:
        return None, None
    table = tables.read(config.evaluation, config.columns)
    truth = tables.classes(table, names)
    values = loop.judge(
        model, rows.Examples(rows.encode(base.tokenizer, table.texts), truth), base.pad
    )
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
