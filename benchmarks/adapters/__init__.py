"""What thousands of adapters cost: `python -m benchmarks.adapters`.

The engine alone, no daemon: rows per second of one adapter against many in the table (`curve`), the
time of a batch against plain transformers (`ratio`, B11), and what an adapter occupies (`pool`).
Everything runs interleaved in one process; every round draws a fresh batch. BERT-base has seeded
random weights, made on the fly: speed does not depend on their values.
"""
