"""What may be declared, and nothing about how it runs.

Text goes in, frozen specs come out, or `errors.InvalidManifest` that lists everything that is wrong
with its position. In reading order: `reader` (bounded YAML events to a tree with positions),
`quantities` and `sources` (how durations, sizes and places are written), `spec` (every field, its
default and its limits), `validation` (rules across fields and documents, and what is not available
yet), `parsing` (`parse`, the door of the room), `writing` (specs back to dictionaries and YAML),
`schema` and `reference` (JSON Schema and docs, generated), `views` (what an operator is shown).

May import `errors`, pydantic and PyYAML. Never opens a file, reads a clock or the environment, and
never reaches numpy, torch, grpc or another room.
"""
