"""`bertd convert`: a checkpoint with pickled weights becomes one that bertd serves; no daemon."""

from pathlib import Path

from bertd.cli import adapter_printing, terminal
from bertd.interchange import converting


def convert(directory: Path, out: Path, *, tokenizer: Path | None, as_json: bool) -> None:
    """Writes the directory `out` and prints what lies there."""
    made = converting.convert(directory, out, tokenizer=tokenizer)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if as_json:
        adapter_printing.as_json(
            {
                "architecture": made.architecture,
                "digest": made.digest,
                "bytes": size,
                "labelNames": list(made.label_names),
            }
        )
        return
    rows = [("architecture", made.architecture), ("sha256", made.digest), ("bytes", str(size))]
    labels = [("labels", ", ".join(made.label_names))] if made.label_names else []
    adapter_printing.table(f"wrote {out}", rows + labels)
    terminal.note("its weights are float32 now; files that bertd does not read were not copied")
