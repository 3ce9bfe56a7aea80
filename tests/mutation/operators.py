"""What is changed in the code: mutmut's operators, and those that it lacks for this service.

mutmut applies its own to the bodies of plain functions alone. Here they go over whole modules,
for what this service is made of stands at their top: patterns, statements, limits, tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import libcst as cst
from libcst import matchers as m
from mutmut.mutation import mutators

Operator = Callable[[Any], Iterable[cst.CSTNode]]

_IN_PATTERN = re.compile(
    r"(?P<class>\[\^)|(?P<anchor>(?<!\[)\^|\\Z)|(?P<range>[!-~]-[!-~](?=[^\]]*\]))"
    r"|(?P<count>(?<=\{)\d+|(?<=,)\d+(?=\}))|(?P<many>(?<!\\)[*+?](?!:|!|=|<))|(?P<bar>\|)"
)
CAST = m.Call(func=m.Name("cast"), args=[m.Arg(value=m.SimpleString()), m.Arg()])
CODECS = {"ascii", "latin-1", "utf-8"}
_STEPPED = {"+": "*", "*": "+", "?": ""}


def pattern_mutants(text: str) -> Iterator[str]:
    """A regular expression with one part of it changed: a quantifier, a bound, an anchor."""
    for found in _IN_PATTERN.finditer(text):
        start, end = found.span()
        part = found[0]
        match found.lastgroup:
            case "class":
                others = ["["]
            case "range":
                first, last = part[0], part[2]
                others = [f"{chr(ord(first) + 1)}-{last}", f"{first}-{chr(ord(last) - 1)}"]
            case "count":
                others = [str(int(part) + 1)]
            case "many":
                others = [_STEPPED[part]]
            case _:
                others = [""]
        for other in others:
            mutant = text[:start] + other + text[end:]
            if _compiles(mutant):
                yield mutant


def _compiles(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def change_string(node: cst.SimpleString) -> Iterator[cst.BaseString]:
    """mutmut's three changes of a string, for a pattern those of patterns as well.

    One change for a sentence, as who looks at its words at all looks at each; and one for the name
    of a codec, whose case does not count.
    """
    if node.quote in {'"""', "'''"}:
        return
    changed = list(mutators.operator_string(node))
    prose = " " in node.raw_value and "r" not in node.prefix
    yield from changed[:1] if prose or node.raw_value in CODECS else changed
    if "r" in node.prefix:
        for text in pattern_mutants(node.raw_value):
            yield node.with_changes(value=f"{node.prefix}{node.quote}{text}{node.quote}")


def change_argument(node: cst.Call) -> Iterator[cst.Call]:
    """Each argument once: None in its place, or its default where it is named."""
    first = 1 if m.matches(node, CAST) else 0  # the type is read by type checkers alone
    for i, arg in enumerate(node.args[first:], first):
        rest = [*node.args[:i], *node.args[i + 1 :]]
        if arg.keyword is not None or arg.star:
            yield node.with_changes(args=rest)
        elif not m.matches(arg.value, m.Name("None")):
            new = arg.with_changes(value=cst.Name("None"))
            yield node.with_changes(args=[*node.args[:i], new, *node.args[i + 1 :]])


def drop_statement(node: cst.Expr | cst.Raise | cst.Del) -> Iterator[cst.Pass]:
    """A call for its effect, or an exception, that does not happen."""
    if m.matches(node, m.Expr(value=m.Call() | m.Await() | m.Yield()) | m.Raise() | m.Del()):
        yield cst.Pass()


def return_nothing(node: cst.Return) -> Iterator[cst.Return]:
    """None instead of what is returned."""
    if node.value is not None and not m.matches(node.value, m.Name("None")):
        yield node.with_changes(
            value=cst.Name("None"), whitespace_after_return=cst.SimpleWhitespace(" ")
        )


def negate(node: cst.If | cst.While | cst.CompIf) -> Iterator[cst.CSTNode]:
    """The other branch, where no operator in the condition is changed already."""
    if m.matches(node.test, m.Name() | m.Call() | m.Attribute() | m.NamedExpr()):
        inner = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(test=cst.UnaryOperation(cst.Not(), inner))


def undecorate(node: cst.FunctionDef | cst.ClassDef) -> Iterator[cst.CSTNode]:
    """Without one of its decorators."""
    for i in range(len(node.decorators)):
        yield node.with_changes(decorators=[*node.decorators[:i], *node.decorators[i + 1 :]])


def catch_less(node: cst.ExceptHandler) -> Iterator[cst.ExceptHandler]:
    """Without one of the exceptions that are caught together."""
    if isinstance(node.type, cst.Tuple):
        elements = node.type.elements
        for i in range(len(elements)):
            rest = [*elements[:i], *elements[i + 1 :]]
            if len(rest) == 1:
                rest = [rest[0].with_changes(comma=cst.Comma())]
            yield node.with_changes(type=node.type.with_changes(elements=rest))


_REPLACED = {mutators.operator_string, mutators.operator_arg_removal}
OPERATORS: list[tuple[type, Operator]] = [
    *(pair for pair in mutators.mutation_operators if pair[1] not in _REPLACED),
    (cst.SimpleString, change_string),
    (cst.Call, change_argument),
    (cst.Expr, drop_statement),
    (cst.Raise, drop_statement),
    (cst.Del, drop_statement),
    (cst.Return, return_nothing),
    (cst.If, negate),
    (cst.While, negate),
    (cst.CompIf, negate),
    (cst.FunctionDef, undecorate),
    (cst.ClassDef, undecorate),
    (cst.ExceptHandler, catch_less),
]
