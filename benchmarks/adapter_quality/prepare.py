"""Turns the published files of SST-2, TREC, SNIPS and CoLA into what `bertd adapter train` reads.

    python benchmarks/adapter_quality/prepare.py DATA_DIR OUT_DIR

DATA_DIR holds the folders `sst2`, `trec`, `snips` and `cola` as their publishers lay them out;
OUT_DIR gets `NAME-train.jsonl` and `NAME-eval.jsonl` with the keys `text` and `label`. The
evaluation file is each set's standard split: SST-2 dev (872), TREC test (500), SNIPS test (700),
CoLA in-domain and out-of-domain dev together (1043, the dev split of GLUE).
"""

import gzip
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

Row = tuple[str, str]

SST2_LABELS = {"0": "negative", "1": "positive"}
COLA_LABELS = {"0": "unacceptable", "1": "acceptable"}
TREC_LABELS = {
    "ABBR": "abbreviation",
    "DESC": "description",
    "ENTY": "entity",
    "HUM": "human",
    "LOC": "location",
    "NUM": "number",
}


def sst2(lines: Iterator[str]) -> Iterator[Row]:
    """GLUE layout: a header, then `sentence<TAB>label`."""
    next(lines)
    for line in lines:
        text, _, label = line.rstrip("\n").rpartition("\t")
        yield text.strip(), SST2_LABELS[label]


def trec(lines: Iterator[str]) -> Iterator[Row]:
    """`COARSE:fine question ...` in Latin-1; the coarse class is the label."""
    for line in lines:
        classes, _, text = line.strip().partition(" ")
        yield text, TREC_LABELS[classes.partition(":")[0]]


def cola(lines: Iterator[str]) -> Iterator[Row]:
    """Four columns without a header: source, label, the author's mark, sentence."""
    for line in lines:
        _, label, _, text = line.rstrip("\n").split("\t")
        yield text, COLA_LABELS[label]


def snips(folder: Path) -> Iterator[Row]:
    """One file of utterances and one of intents, line by line."""
    texts = (folder / "seq.in").read_text("utf-8").splitlines()
    labels = (folder / "label").read_text("utf-8").splitlines()
    for text, label in zip(texts, labels, strict=True):
        yield text.strip(), label.strip()


def read(reader: Callable[[Iterator[str]], Iterator[Row]], *paths: Path) -> Iterator[Row]:
    """The rows of one split, kept in one or several files, gzipped or not."""
    for path in paths:
        encoding = "latin-1" if path.parent.name == "trec" else "utf-8"
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding=encoding, newline="\n") as file:
            yield from reader(iter(file))


def write(path: Path, rows: Iterator[Row]) -> None:
    """Writes one split as jsonl and prints its size."""
    lines = [json.dumps({"text": t, "label": c}, ensure_ascii=False) + "\n" for t, c in rows]
    path.write_text("".join(lines), "utf-8")
    print(f"{path}: {len(lines)} rows")


def main(data: Path, out: Path) -> None:
    """Writes all eight files."""
    out.mkdir(parents=True, exist_ok=True)
    files = {name: data / name for name in ("sst2", "trec", "snips", "cola")}
    write(out / "sst2-train.jsonl", read(sst2, files["sst2"] / "train.tsv.gz"))
    write(out / "sst2-eval.jsonl", read(sst2, files["sst2"] / "dev.tsv"))
    write(out / "trec-train.jsonl", read(trec, files["trec"] / "train.txt"))
    write(out / "trec-eval.jsonl", read(trec, files["trec"] / "test.txt"))
    write(out / "snips-train.jsonl", snips(files["snips"] / "train"))
    write(out / "snips-eval.jsonl", snips(files["snips"] / "test"))
    dev = (files["cola"] / "in_domain_dev.tsv", files["cola"] / "out_of_domain_dev.tsv")
    write(out / "cola-train.jsonl", read(cola, files["cola"] / "in_domain_train.tsv"))
    write(out / "cola-eval.jsonl", read(cola, *dev))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
