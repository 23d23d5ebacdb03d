"""The encoder: one packed implementation for every BERT family, and the heads on top of it.

Works on tensors only: it opens no file by itself beyond the weights it is handed, knows nothing of
processes, queues or adapters' files. May import `kernels`,
`families`, `checkpoint` and `errors`. Tokens of
all rows lie end to end; no matrix product ever sees padding.
"""
