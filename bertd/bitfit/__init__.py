"""Training a BitFit adapter: a frozen base learns a task by moving its biases and one small head.

    training.train(TrainConfig) -> TrainResult   the whole way from a data file to an adapter file
    freezing.freeze, freezing.offsets            for training loops of your own
    tables.read, scores.measure                  labelled data in, accuracy, F1 or Matthews out

A library that works without a daemon (extra `train`). May import `model` and the shared leaves;
`tables` and `scores` need the standard library alone, so that reading data and judging answers
stays cheap. Must never change a base weight, read the evaluation data before training is over, or
be imported by a process that serves.
"""
