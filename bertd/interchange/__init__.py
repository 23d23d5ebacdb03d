"""The doors to other programs' files: BitInfer, Hugging Face checkpoints, PEFT's BEFT adapters.

Import turns them into adapter files of one base, export and merge turn adapters back, and the
comparison says what two adapters differ in. May import `checkpoint`, `families`, `errors`,
`tokenization` to prove what it writes and, for writing, torch. Pickle is read by one module alone,
`unpickle`, which runs in a short-lived child process behind `sandbox` and of the rest imports only
how tensors are written; the daemon and its workers never import this room.
"""
