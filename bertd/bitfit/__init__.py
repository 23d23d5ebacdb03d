"""Training a BitFit adapter: a frozen base learns a task by moving its biases and one small head.

    training.train(TrainConfig) -> TrainResult   the whole way from a data file to an adapter file
    freezing.freeze, trainable, offsets          for training loops of your own
    models.save, models.load                     a tuned transformers model to a file, and back
    tables.read, scores.measure                  labelled data in, how good the answers are out

A loop of one's own, on any transformers model with a head that bertd knows:

    >>> import transformers
    >>> from bertd.bitfit import freezing, models
    >>> auto = transformers.AutoModelForSequenceClassification
    >>> model = auto.from_pretrained(base, num_labels=2)
    >>> learned = freezing.freeze(model, ["query", "output"])
    >>> fit(model)                                  # the loop; `learned` are the names that move
    >>> digest = models.save("mine.safetensors", model, base, label_names=["no", "yes"])
    >>> again = auto.from_pretrained(base, num_labels=2)
    >>> models.load("mine.safetensors", again, base).label_names
    ('no', 'yes')

A library that works without a daemon (extra `train`). May import `model` and the shared leaves;
`tables` and `scores` need the standard library alone, `problems` and `calibration` numpy, so that
reading data and judging answers stays cheap. Must never change a base weight, read the evaluation
data before training is over, or be imported by a process that serves.
"""
