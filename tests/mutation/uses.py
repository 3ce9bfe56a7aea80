"""Where a name that a module defines at its top is used, so that its tests can be found."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

Line = tuple[str, int]


class Uses:
    """The names of all modules: which lines define them, and which lines ask for them."""

    def __init__(self, sources: dict[str, str]) -> None:
        self._defined: dict[str, dict[int, set[str]]] = {}
        self._in_functions: dict[str, set[Line]] = defaultdict(set)
        self._at_top: dict[str, set[Line]] = defaultdict(set)
        for module, source in sources.items():
            tree = ast.parse(source)
            defined: dict[int, set[str]] = defaultdict(set)
            for node in _statements(tree):
                for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                    defined[line] |= _targets(node)
            self._defined[module] = defined
            self._note(module, tree, inside=False)

    @classmethod
    def of(cls, root: Path) -> Uses:
        """Of the service."""
        files = root.glob("app/**/*.py")
        return cls({file.relative_to(root).as_posix(): file.read_text("utf-8") for file in files})

    def _note(self, module: str, node: ast.AST, *, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            name = getattr(child, "id", None) or getattr(child, "attr", None)
            if isinstance(name, str) and isinstance(getattr(child, "ctx", None), ast.Load):
                found = self._in_functions if inside else self._at_top
                found[name].add((module, child.lineno))  # type: ignore[attr-defined]  # a Name has
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            self._note(module, child, inside=inside or function)

    def reached(self, module: str, first: int, last: int) -> set[Line]:
        """The lines in functions that depend on what these lines define at the top."""
        waiting = self._names(module, range(first, last + 1))
        seen: set[str] = set()
        lines: set[Line] = set()
        while waiting:
            name = waiting.pop()
            seen.add(name)
            lines |= self._in_functions[name]
            for place, line in self._at_top[name]:
                waiting |= self._names(place, [line]) - seen
        return lines

    def _names(self, module: str, lines: range | list[int]) -> set[str]:
        return set[str]().union(*(self._defined[module].get(line, ()) for line in lines))


def _statements(tree: ast.Module | ast.ClassDef) -> Iterator[ast.stmt]:
    for node in tree.body:
        yield node
        if isinstance(node, ast.ClassDef):
            yield from _statements(node)


def _targets(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}
