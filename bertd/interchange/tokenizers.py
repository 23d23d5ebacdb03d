"""Whether two tokenizers cut text alike: everything that decides ids must be equal."""

from pathlib import Path
from typing import Final

from bertd import families
from bertd.checkpoint import beneath, json_text, sources
from bertd.interchange import records, refusals

# How long a row may be, and how ids become text again, changes no id.
_IRRELEVANT: Final = frozenset({"version", "truncation", "padding", "decoder"})


def check(folder: Path, opened: records.Opened, what: str, *, required: bool = True) -> None:
    """Prove that a directory's `tokenizer.json` cuts text as the base's does.

    Raises:
        errors.BadArtifact: reason `WrongTokenizer`, naming the sections, or `MissingFile`.
    """
    path = folder / sources.TOKENIZER
    if not path.exists():
        if required:
            raise refusals.bad(
                what,
                f"has no '{sources.TOKENIZER}'",
                "MissingFile",
                hint="save it there with save_pretrained of a fast tokenizer",
            )
        return
    theirs, ours = _sections(path, what), _sections(opened.paths[sources.TOKENIZER], "the base")
    differing = sorted(key for key in theirs | ours if theirs.get(key) != ours.get(key))
    if differing:
        named = ", ".join(map(families.quote, differing))
        raise refusals.bad(
            f"the tokenizer of {what}",
            f"is not the base's; they differ in {named}",
            "WrongTokenizer",
            hint="name the base that it was fine-tuned from",
        )


def _sections(path: Path, what: str) -> dict[str, object]:
    text = beneath.read_file(path, sources.MAX_TOKENIZER_BYTES, f"{sources.TOKENIZER} of {what}")
    found = json_text.parse_object(text, f"{sources.TOKENIZER} of {what}")
    return {key: value for key, value in found.items() if key not in _IRRELEVANT}
