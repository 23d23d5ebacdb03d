"""Nothing that can run code from a file is ever used to read one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import bertd

PACKAGE = Path(bertd.__file__).parent
MODULES = {
    "_pickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "pickletools", "runpy",
    "shelve", "tarfile", "zipfile", "zipimport",
}  # fmt: skip
NAMES = {"torch.load", "torch.jit.load", "torch.hub", "numpy.load", "np.load", "yaml.load"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
GENERATED = "_pb2"
# The trainer runs transformers' own code and reads its checkpoints; the daemon never imports it.
EXEMPT = ("bitfit",)
# The one reader of pickles: a short-lived child process of its own, never imported to be run.
READER = "interchange/unpickle.py"


def faults(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines of a module that import, or name, something that can run code from a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names = [node.func.id] if node.func.id in BUILTINS else []
        else:
            continue
        for name in names:
            if name in NAMES | BUILTINS or name.partition(".")[0] in MODULES:
                yield node.lineno, name


def product_modules() -> list[Path]:
    """Every hand-written module of the product that the daemon or its worker may import."""
    return [
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if GENERATED not in path.name and path.relative_to(PACKAGE).parts[0] not in EXEMPT
    ]


def test_no_module_reads_pickles() -> None:
    """No product code outside bitfit imports pickle or calls torch.load (checklist 84, D14).

    But for one line of the importer's child process, which reads tensors alone.
    """
    modules = product_modules()
    assert len(modules) > 20
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {name}"
        for path in modules
        for line, name in faults(ast.parse(path.read_text("utf-8")))
    ]
    assert [line.split(":")[0] for line in found] == [READER]
    text = (PACKAGE / READER).read_text("utf-8")
    assert 'torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)' in text


def test_the_reader_of_pickles_runs_in_a_process_of_its_own_only() -> None:
    """What others take from the reader's module are its limits; they never call it."""
    for path in product_modules():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "unpickle":
                assert node.attr.isupper(), path


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "from torch import load",
        "torch.load(path)",
        "x = torch.load",
        "from numpy import load",
        "import joblib.numpy_pickle",
        "eval('1')",
        "def f():\n    import dill",
    ],
)
def test_the_search_finds_what_it_must(code: str) -> None:
    """Each way of reaching a reader that runs code is seen."""
    assert list(faults(ast.parse(code)))


def test_the_search_leaves_ordinary_code_alone() -> None:
    """Loading by other means, and words that look alike, are no faults."""
    code = "import json\nfrom torch import nn\njson.load(f)\nyaml.safe_load(f)\nmodel.load(x)\n"
    assert list(faults(ast.parse(code))) == []
