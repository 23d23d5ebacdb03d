"""BERT-base on one GPU: sequences a second, mixed adapters, a lone row, share of the peak."""
