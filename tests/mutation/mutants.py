"""The mutants of a module: every change of one place in it that is worth a test."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import libcst as cst
from libcst import matchers as m
from libcst.metadata import (
    ByteSpanPositionProvider,
    CodeSpan,
    MetadataWrapper,
    PositionProvider,
)

from tests.mutation.operators import CAST, OPERATORS

Key = tuple[str, str, str]
Place = tuple[str, str, str, int]


class Mutant(NamedTuple):
    """One change: the lines before and after it are its name, as line numbers move."""

    module: str
    operator: str
    first: int
    last: int
    before: str
    after: str
    code: str

    @property
    def key(self) -> Key:
        """What tells it from others, and outlives changes elsewhere in the module."""
        return self.module, self.before, self.after

    @property
    def place(self) -> Place:
        """The same where equal lines stand in a module twice."""
        return *self.key, self.first


class _Places(cst.CSTVisitor):
    """Every place of a module that may be changed; what is left out is counted by its reason."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[cst.CSTNode, str, cst.CSTNode]] = []
        self.left_out: Counter[str] = Counter()
        self._reasons: list[tuple[cst.CSTNode, str]] = []
        self._types: list[cst.CSTNode] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Note the changes of a node, or why there are none below it."""
        if m.matches(node, CAST):
            self._types.append(cst.ensure_type(node, cst.Call).args[0])
        reason = _NO_CODE if node in self._types else _reason(node)
        if reason:
            self._reasons.append((node, reason))
        if m.matches(node, m.Call(func=m.Name("Meta"))):
            self._reasons.append((node, ""))  # a limit, wherever it stands
        current = self._reasons[-1][1] if self._reasons else ""
        for kind, operator in OPERATORS:
            if isinstance(node, kind):
                for new in operator(node):
                    if current:
                        self.left_out[current] += 1
                    else:
                        self.found.append((node, operator.__name__, new))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        """Forget the reason with the node it began at."""
        while self._reasons and self._reasons[-1][0] is original_node:
            self._reasons.pop()


def _reason(node: cst.CSTNode) -> str:
    """Why a change in here would say nothing about the tests."""
    if isinstance(node, cst.Annotation) or m.matches(node, _TYPE_VARIABLE):
        return _NO_CODE
    if m.matches(node, m.Comparison(comparisons=[m.ComparisonTarget(comparator=_WINDOWS)])):
        return "tells Windows from the rest, and the tests run on Linux"
    if isinstance(node, cst.If | cst.FunctionDef):
        block = node.body
        comment = block.header.comment if isinstance(block, cst.IndentedBlock) else None
        if comment is not None and "no cover" in comment.value and "Windows" in comment.value:
            return "runs on Windows alone, and the tests run on Linux"
    return ""


_NO_CODE = "an annotation, which mypy and pyright read and the service does not"
_TYPE_VARIABLE = m.Call(func=m.Name("TypeVar"))
_WINDOWS = m.SimpleString('"win32"')


def mutants_of(path: Path, module: str) -> tuple[list[Mutant], Counter[str]]:
    """The mutants of a module's file, and how many places were left out for which reason."""
    source = path.read_text("utf-8")
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    places = _Places()
    wrapper.visit(places)
    lines = wrapper.resolve(PositionProvider)
    spans = wrapper.resolve(ByteSpanPositionProvider)
    found: dict[Place, Mutant] = {}
    for node, operator, new in places.found:
        code = _replaced(wrapper.module, source, spans.get(node), node, new)
        before, after = _difference(source, code)
        first, last = lines[node].start.line, lines[node].end.line
        if before != after and _is_python(code):
            mutant = Mutant(module, operator, first, last, before, after, code)
            found.setdefault(mutant.place, mutant)
    return list(found.values()), places.left_out


def _replaced(
    module: cst.Module, source: str, span: CodeSpan | None, node: cst.CSTNode, new: cst.CSTNode
) -> str:
    raw = source.encode()
    if span is not None:
        end = span.start + span.length
        if raw[span.start : end].decode() == module.code_for_node(node):
            changed = module.code_for_node(new).encode()
            return (raw[: span.start] + changed + raw[end:]).decode()
    # Correct for every node, and hundreds of times slower.
    return cst.ensure_type(module.deep_replace(node, new), cst.Module).code


def _is_python(code: str) -> bool:
    try:
        compile(code, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _difference(old: str, new: str) -> tuple[str, str]:
    """The lines that differ, of both."""
    a, b = old.splitlines(), new.splitlines()
    start = next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    end = 0
    while end < min(len(a), len(b)) - start and a[-1 - end] == b[-1 - end]:
        end += 1
    return _shown(a[start : len(a) - end]), _shown(b[start : len(b) - end])


def _shown(lines: list[str]) -> str:
    return "\n".join(line.strip() for line in lines)
