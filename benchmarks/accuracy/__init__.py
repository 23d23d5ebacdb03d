"""What a precision costs: its answers beside those of fp32, on real models and real data.

`python -m benchmarks.accuracy --data FOLDER [--ner FOLDER] [--precision int8]...` compares each
precision with fp32: the adapters of the quick start on their evaluation splits, each base's
embeddings of the same texts, and a token classifier where one is at hand. Writes
`benchmarks/results/accuracy-MONTH.{json,md}`. Both sides compute on all cores that the process
may use (`taskset` takes some away). The computing is `bertd.engine.evaluation`, as in
`bertd adapter evaluate --against`.
"""
