"""Writes the generated files of this folder: `make docs`. Tests compare them with the code."""

import pathlib

from bertd.manifest import reference, schema

FOLDER = pathlib.Path(__file__).parent


def main() -> None:
    """Writes the manifest's JSON Schema and its reference."""
    (FOLDER / "manifest.schema.json").write_text(schema.text(), encoding="utf-8")
    (FOLDER / "manifest.md").write_text(reference.text(), encoding="utf-8")


if __name__ == "__main__":
    main()
