"""Serve many BitFit fine-tunes of BERT-family encoders from one copy of the weights."""
