"""Everything public is documented, annotated and exported honestly; and each check can fail."""

import importlib
import warnings
from collections.abc import Callable
from pathlib import PurePosixPath

import pytest

from tests.house import surface, tree

# Installed only with an extra; a module that needs one may be missing here.
OPTIONAL = frozenset({"vllm"})

CHECKS = (surface.check_docstrings, surface.check_annotations, surface.check_exports)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_public_surface(check: Callable[[str, str], list[str]]) -> None:
    found = [violation for path in tree.library_files() for violation in check(path, tree.text_of(path))]
    assert not found, "\n".join(["", *found])


def test_error_trees_are_drawn() -> None:
    paths = [path for path in tree.library_files() if PurePosixPath(path).name == "errors.py"]
    assert paths
    found = [violation for path in paths for violation in surface.check_error_tree(path, tree.text_of(path))]
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize("path", [path for path in tree.library_files() if surface.exported(tree.text_of(path))])
def test_exports_can_be_imported(path: str) -> None:
    name = ".".join(PurePosixPath(path).with_suffix("").parts[1:]).removesuffix(".__init__")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of third-party packages while they are imported
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in OPTIONAL:
                pytest.skip(f"needs {error.name}")
            raise
    missing = [export for export in surface.exported(tree.text_of(path)) or [] if not hasattr(module, export)]
    assert not missing, f"{path}:1: exports: {missing} cannot be imported"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('"""M."""\ndef f():\n    """F."""\n    def inner(): pass\n', 0),
        ('"""M."""\nclass C:\n    """C."""\n    def _f(self): pass\n    def __len__(self): pass\n', 0),
        ('"""M."""\nclass C:\n    """C."""\n    @override\n    def f(self): pass\n', 0),
        ("", 1),
        ('"""M."""\ndef f(): pass\n', 1),
        ('"""M."""\nif x:\n    async def f(): pass\n', 1),
        ('"""M."""\nclass C: pass\n', 1),
        ('"""M."""\nclass C:\n    """C."""\n    def f(self): pass\n', 1),
    ],
)
def test_missing_docstrings_are_reported(source: str, count: int) -> None:
    assert len(surface.check_docstrings("x.py", source)) == count


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f(a: int, *b: int, c: int = 1, **d: int) -> None: pass", 0),
        ("class C:\n    def f(self) -> None: pass\n    @staticmethod\n    def g(a: int) -> None: pass", 0),
        ("def f(): pass", 1),
        ("def f(a) -> None: pass", 1),
        ("def f(*a) -> None: pass", 1),
        ("def f(*, a) -> None: pass", 1),
        ("def f(**a) -> None: pass", 1),
        ("class C:\n    def f(self, a) -> None: pass", 1),
        ("class C:\n    def __init__(self, a) -> None: pass", 1),
        ("class C:\n    @staticmethod\n    def g(a) -> None: pass", 1),
    ],
)
def test_missing_annotations_are_reported(source: str, count: int) -> None:
    assert len(surface.check_annotations("x.py", source)) == count


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("a = 1", 0),
        ("__all__ = ['BITS_MAX', 'Frame', 'TTL', 'int8', 'int16']", 1),
        ("__all__ = ['BITS_MAX', 'TTL', 'Frame', 'int8', 'int16']", 0),
        ("__all__ = ['b', 'a']", 1),
        ("__all__: list[str] = ['a', 'a']", 1),
    ],
)
def test_unsorted_exports_are_reported(source: str, count: int) -> None:
    assert len(surface.check_exports("x.py", source)) == count


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('"""BaseError\n└── LeafError\n"""\nclass BaseError(Exception): pass\nclass LeafError(BaseError): pass', 0),
        ('"""BaseError"""\nclass BaseError(Exception): pass\nclass LeafError(BaseError): pass', 1),
        ('"""BaseError LeafError"""\nclass BaseError(Exception): pass\nclass LeafError(ValueError): pass', 1),
    ],
)
def test_errors_outside_the_tree_are_reported(source: str, count: int) -> None:
    assert len(surface.check_error_tree("errors.py", source)) == count
