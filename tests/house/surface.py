"""What the public surface of the five packages must say, as pure functions of one file's text.

Public is what has no leading underscore and is not inside a function. A violation is `path:line: rule: what; instead`.
"""

import ast
import re
from collections.abc import Iterator

from tests.house.rules import FUNCTION_NODES, Function, tree_of, violation

# An overriding or overloaded function is documented where it is declared first, a setter at its getter.
DOCUMENTED_ELSEWHERE = frozenset({"overload", "override", "setter", "deleter"})


def decorator_names(node: Function | ast.ClassDef) -> set[str]:
    """Return the last part of the name of every decorator."""
    return {ast.unparse(decorator).partition("(")[0].rpartition(".")[2] for decorator in node.decorator_list}


def public_definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Yield (qualified name, node) of every public class, function and method, and of `__init__` and its like."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield prefix + child.name, child
            yield from public_definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, FUNCTION_NODES):
            if not child.name.startswith("_") or (prefix and child.name.endswith("__")):
                yield prefix + child.name, child
        elif isinstance(child, ast.If | ast.Try | ast.With):
            yield from public_definitions(child, prefix)


def check_docstrings(path: str, source: str) -> list[str]:
    """Every public module, class, function and method says what it is for."""
    module = tree_of(source)
    found = []
    if not (ast.get_docstring(module) or "").strip():
        found.append(violation(path, module, "docstring", "the module has none", "say what the file is for"))
    for name, node in public_definitions(module):
        magic = node.name.startswith("_")
        if not magic and not decorator_names(node) & DOCUMENTED_ELSEWHERE and not ast.get_docstring(node):
            found.append(violation(path, node, "docstring", f"{name} has none", "say what it is for, with units"))
    return found


def check_annotations(path: str, source: str) -> list[str]:
    """Every public function and method has every argument and its return annotated."""
    found = []
    for name, node in public_definitions(tree_of(source)):
        if isinstance(node, ast.ClassDef):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args]
        if "." in name and "staticmethod" not in decorator_names(node):
            arguments = arguments[1:]
        arguments += [*node.args.kwonlyargs, *filter(None, (node.args.vararg, node.args.kwarg))]
        missing = [argument.arg for argument in arguments if argument.annotation is None]
        if node.returns is None:
            missing.append("return")
        if missing:
            instead = "annotate: " + ", ".join(missing)
            found.append(violation(path, node, "annotation", f"{name} is incomplete", instead))
    return found


def exported(source: str) -> list[str] | None:
    """Return the names in `__all__`, or None where a file has none. It must be a literal: ast.literal_eval raises."""
    for node in tree_of(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return list(ast.literal_eval(node.value))  # type: ignore[attr-defined]
    return None


def export_order(name: str) -> tuple[int, list[tuple[int, int, str]]]:
    """Return the key ruff sorts `__all__` by (RUF022): constants, classes, the rest; numbers by value."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    chunks = re.findall(r"\d+|\D+", name)
    return kind, [(0, int(chunk), "") if chunk.isdigit() else (1, 0, chunk) for chunk in chunks]


def check_exports(path: str, source: str) -> list[str]:
    """`__all__` is sorted and names nothing twice."""
    names = exported(source)
    if names is None or names == sorted(set(names), key=export_order):
        return []
    return [f"{path}:1: exports: __all__ is not sorted or repeats a name; run `make format`"]


def check_error_tree(path: str, source: str) -> list[str]:
    """An errors.py draws its tree in its docstring: every class is drawn, below one base, with the base first."""
    module = tree_of(source)
    drawn = ast.get_docstring(module) or ""
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    found = []
    for index, node in enumerate(classes):
        if not re.search(rf"\b{node.name}\b", drawn):
            found.append(violation(path, node, "error tree", f"{node.name} is not drawn", "add it to the docstring"))
        bases = {ast.unparse(base) for base in node.bases}
        above = {"Exception"} if index == 0 else {earlier.name for earlier in classes[:index]}
        if not bases & above:
            instead = f"derive it from {classes[0].name}" if index else "derive the base from Exception"
            found.append(violation(path, node, "error tree", f"{node.name} stands outside", instead))
    return found
