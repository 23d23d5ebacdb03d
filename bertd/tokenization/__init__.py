"""Text to token ids, exactly as the checkpoint's own tokenizer file says.

May import `tokenizers`, numpy and `bertd.errors`. Must never import torch, transformers or grpc,
read a file other than the one tokenizer file it is given, or change a loaded tokenizer: one
`Tokenizer` is shared by the event loop and the tokenising thread.
"""
