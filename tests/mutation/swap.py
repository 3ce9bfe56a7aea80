"""A mutant inside of functions, put into a process that has imported the service already."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator
from types import CodeType, FunctionType

_NOT_CALLED = {"<module>", "<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}
Swap = tuple[CodeType, CodeType]


def swaps(old: str, new: str, filename: str) -> list[Swap] | None:
    """The code of each function that differs; None where code differs that an import has run."""
    found = list(_differences(_compiled(old, filename), _compiled(new, filename), inside=False))
    return None if None in found else [pair for pair in found if pair is not None]


def _compiled(source: str, filename: str) -> CodeType:
    return compile(source, filename, "exec", dont_inherit=True)


def _differences(old: CodeType, new: CodeType, *, inside: bool) -> Iterator[Swap | None]:
    called = inside or (bool(old.co_flags & 2) and old.co_name not in _NOT_CALLED)
    nested = [code for code in old.co_consts if isinstance(code, CodeType)]
    others = [code for code in new.co_consts if isinstance(code, CodeType)]
    if called:
        if old != new:
            yield (old, new) if old.co_freevars == new.co_freevars else None
    elif _own(old) != _own(new) or len(nested) != len(others):
        yield None
    else:
        for pair in zip(nested, others, strict=True):
            yield from _differences(*pair, inside=False)


def _own(code: CodeType) -> tuple[object, ...]:
    """What a code object does itself."""
    consts = [repr(value) for value in code.co_consts if not isinstance(value, CodeType)]
    return code.co_code, code.co_names, code.co_varnames, consts


class Functions:
    """Every function of this process, by its code."""

    def __init__(self) -> None:
        self._of = defaultdict[tuple[str, int, str], list[FunctionType]](list)
        for thing in gc.get_objects():
            if isinstance(thing, FunctionType):
                self._of[_name(thing.__code__)].append(thing)

    def know(self, pairs: list[Swap]) -> bool:
        """Whether each of them can be swapped here."""
        return all(self._of[_name(old)] for old, _ in pairs)

    def swap(self, pairs: list[Swap]) -> None:
        """Give each function its new code."""
        for old, new in pairs:
            for function in self._of[_name(old)]:
                function.__code__ = new


def _name(code: CodeType) -> tuple[str, int, str]:
    return code.co_filename, code.co_firstlineno, code.co_qualname
