"""The layers' arithmetic on a CPU: the layout of weights, native code, and its eager twin.

Runs stacks of layers over tokens that lie end to end, in fp32, bf16 or int8, and defines the plain
bytes in which a linear weight lies in memory, in a file and in a mapping alike. May import
`families`, `errors`, torch and numpy. Knows nothing of checkpoints, embeddings, adapters' files or
processes, and never compiles anything at run time.
"""
