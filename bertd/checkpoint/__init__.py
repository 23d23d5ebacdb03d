"""Files that somebody else wrote: weights, configs and adapters, read as hostile input.

`sources` turns what a manifest names into opened files, `safetensors` reads their headers and maps
them, `files` describes a base, `digest` names it by content, `adapter_file` reads and writes
adapters. Whatever the bytes are, the only outcome besides success is `errors.BadArtifact` (or
`errors.Temporary` where the disk is at fault).

May import numpy, `bertd.families`, `bertd.errors`; never torch, grpc, pickle, nor another leaf. The
front may read headers and digests; only the worker calls `safetensors.Weights`, which maps.
"""
