"""The documents say what is so: commands parse, links lead somewhere, manifests are valid."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import typer.main

from bertd.cli import main
from bertd.manifest import parsing

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("examples/**/*.md"),
        *ROOT.glob("benchmarks/**/*.md"),
    )
)
README = ROOT / "README.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
BETWEEN_COMMANDS = {"|", "||", "&&", "&", ";"}
REDIRECTIONS = {"<", ">", ">>", "2>"}
LONGEST_README_LINES = 250


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of these languages."""
    return [text for language, text in BLOCK.findall(page.read_text()) if language in languages]


def commands(script: str) -> Iterator[list[str]]:
    """Every `bertd ...` of a shell script as its arguments, without pipes and redirections."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words = list(lexer)
        command: list[str] = []
        for word in (*words, ";"):
            if word not in BETWEEN_COMMANDS:
                command.append(word)
                continue
            if command[:1] == ["bertd"]:
                yield command[1:]
            command = []


def without_redirections(words: Sequence[str]) -> list[str]:
    """The arguments that the shell would pass on."""
    files = {at + 1 for at, word in enumerate(words) if word in REDIRECTIONS}
    return [word for at, word in enumerate(words) if at not in files and word not in REDIRECTIONS]


def check(arguments: Sequence[str]) -> str:
    """Parses a command line as `bertd` does, without running it; returns what is wrong."""
    command, words = typer.main.get_command(main.app), without_redirections(arguments)
    while isinstance(verbs := getattr(command, "commands", None), dict):
        verb = words.pop(0) if words else ""
        if verb not in verbs:
            return f"no verb '{verb}'"
        command = verbs[verb]
    try:
        command.make_context(command.name, words)
    except Exception as error:  # which class it is depends on the version of typer
        return f"{type(error).__name__}: {error}"
    return ""


def anchors(page: Path) -> set[str]:
    """The names that a page's headings have in links."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in HEADING.findall(page.read_text())
    }


def broken_links(page: Path) -> Iterator[str]:
    """Relative links of a page that lead nowhere."""
    for link in LINK.findall(BLOCK.sub("", page.read_text())):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_parses(page: Path) -> None:
    """Each `bertd ...` in a shell block names a verb and options that exist, rightly used."""
    lines = [words for script in blocks(page, "sh") for words in commands(script)]
    wrong = {shlex.join(words): check(words) for words in lines}
    assert {line: why for line, why in wrong.items() if why} == {}


def test_the_readme_shows_the_main_verbs() -> None:
    """The check above finds the commands: the README has at least these verbs."""
    found = {words[0] for script in blocks(README, "sh") for words in commands(script)}
    assert {"serve", "apply", "get", "describe", "predict", "validate", "adapter"} <= found


@pytest.mark.parametrize(
    "line",
    [
        "bertd aply manifest.yaml",
        "bertd apply manifest.yaml --wat",
        "bertd get",
        "bertd predict",
        "bertd adapter train --base x --data y",
        "bertd adapter trian --base x --data y --out z",
        "cat manifest.yaml | bertd apply - --output yaml",
    ],
)
def test_a_wrong_command_line_is_noticed(line: str) -> None:
    """Unknown verbs and options, and missing arguments, do not slip through."""
    (words,) = commands(line)
    assert check(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """Each relative link of a page names an existing file, and an existing heading in it."""
    assert list(broken_links(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_manifest_is_valid(page: Path) -> None:
    """Each YAML block that declares an object parses, without a warning."""
    for text in blocks(page, "yaml"):
        if "apiVersion" in text:
            parsed = parsing.parse(text, file=page.name, base_dir="/srv")
            assert parsed.objects
            assert parsed.warnings == ()


def test_the_readme_is_short() -> None:
    """The README can be read in one sitting, and begins with the product's name."""
    lines = README.read_text().splitlines()
    assert lines[0] == "# bertd"
    assert len(lines) <= LONGEST_README_LINES
