"""The contract may differ from the last release only as far as its version says."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.tools.changes import BREAKING, COMPATIBLE, WORDING, Case, one
from tests.tools.edits import DOCUMENT, GONE, edited
from tests.tools.evolution import JUDGED, PROSE, Level, compare, faults, parse, version_of
from tests.tools.node import CONTRACT, ROOT

pytestmark = pytest.mark.requirement("NFR-009")

RELEASES = ROOT / "specs/phase-II/001-core-backend/contracts"
SUMS = RELEASES / "SHA256SUMS"
CHANGELOG = "# Changelog\n\n## {} - 2026-12-24\n\n### Added\n- Something.\n"
BROKEN = one("/paths/~1readyz", GONE)
WIDER = one("/components/parameters/Limit/schema/maximum", 500)
REWORDED = one("/components/schemas/Task/description", "Another.")
# Keywords under which there are schemas, which are compared themselves.
NESTED = {"$ref", "items", "properties"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The contract in the layout of the changed copies."""
    path = tmp_path / "base.yaml"
    path.write_text(edited({}), "utf-8")
    return path


@pytest.fixture
def releases(tmp_path: Path, base: Path) -> Path:
    """A folder in which the contract was released as 1.2.3, and an older one as 1.2.0."""
    folder = tmp_path / "releases"
    folder.mkdir()
    base.rename(folder / "1.2.3.yaml")
    (folder / "1.2.3.yaml").write_text(edited({"/info/version": "1.2.3"}), "utf-8")
    (folder / "1.2.0.yaml").write_text("info: {version: 1.2.0}", "utf-8")
    return folder


def changed(folder: Path, case: Case, version: str | None = None) -> Path:
    """The contract with a change, and with another version where one is given."""
    path = folder / "openapi.yaml"
    moved = {"/info/version": version} if version else {}
    path.write_text(edited({**case.edits, **moved}), "utf-8")
    return path


# --- this contract -------------------------------------------------------------------------------


def test_the_contract_may_follow_the_last_release() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert list(faults(CONTRACT, RELEASES, changelog)) == []


def test_what_was_released_has_not_changed() -> None:
    files = sorted(RELEASES.glob("[0-9]*.yaml"))
    assert files
    sums = [f"{sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    assert SUMS.read_text("utf-8") == "".join(sums)
    assert [version_of(path) for path in files] == [parse(path.stem) for path in files]


# --- what a change means -------------------------------------------------------------------------


def assert_found(base: Path, case: Case, level: Level) -> None:
    found = compare(base, changed(base.parent, case))
    pointer = case.pointer or next(iter(case.edits))
    assert max(change.level for change in found) == level, found
    assert (level, pointer) in {(change.level, change.pointer) for change in found}
    assert all(change.reason for change in found)


@pytest.mark.parametrize("case", BREAKING.values(), ids=BREAKING)
def test_a_breaking_change_is_found(base: Path, case: Case) -> None:
    assert_found(base, case, Level.MAJOR)


@pytest.mark.parametrize("case", COMPATIBLE.values(), ids=COMPATIBLE)
def test_a_compatible_change_is_found(base: Path, case: Case) -> None:
    assert_found(base, case, Level.MINOR)


@pytest.mark.parametrize("case", WORDING.values(), ids=WORDING)
def test_a_change_of_wording_is_found(base: Path, case: Case) -> None:
    assert_found(base, case, Level.PATCH)


def schemas(node: Any, pointer: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of the document, and where it stands."""
    children = enumerate(node) if isinstance(node, list) else node.items()
    for key, child in children:
        place = f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}"
        if not isinstance(child, dict | list) or key in {"example", "examples"}:
            continue
        above = pointer.rpartition("/")[2]
        if isinstance(child, dict) and (
            key in {"schema", "items"} or above in {"schemas", "properties"}
        ):
            yield place, child
        yield from schemas(child, place)


def other(value: Any) -> Any:
    """A value of the same type."""
    if isinstance(value, list):
        return value[:-1]
    if isinstance(value, str):
        return f"{value}x"
    return not value if isinstance(value, bool) else value + 1


def test_every_keyword_of_the_contract_is_known_and_compared(base: Path) -> None:
    places = {
        keyword: f"{pointer}/{keyword}"
        for pointer, schema in schemas(DOCUMENT)
        for keyword in schema
        if keyword not in NESTED
    }
    assert set(places) <= JUDGED["Schema"] | PROSE
    values = {
        keyword: next(
            schema[keyword]
            for pointer, schema in schemas(DOCUMENT)
            if place == f"{pointer}/{keyword}"
        )
        for keyword, place in places.items()
    }
    case = Case({place: other(values[keyword]) for keyword, place in places.items()})
    found = {change.pointer for change in compare(base, changed(base.parent, case))}
    assert found >= set(places.values())


# --- what a version allows -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "version"),
    [(BROKEN, "2.0.0"), (WIDER, "1.3.0"), (WIDER, "2.0.0"), (REWORDED, "1.2.4")],
)
def test_a_version_that_moves_far_enough_may_be(releases: Path, case: Case, version: str) -> None:
    contract = changed(releases.parent, case, version)
    assert list(faults(contract, releases, CHANGELOG.format(version))) == []


@pytest.mark.parametrize(
    ("case", "version", "pointer"),
    [
        (BROKEN, "1.3.0", "/paths/~1readyz"),
        (BROKEN, "1.2.4", "/paths/~1readyz"),
        (WIDER, "1.2.4", "/components/parameters/Limit/schema/maximum"),
    ],
)
def test_a_version_that_moves_too_little_may_not_be(
    releases: Path, case: Case, version: str, pointer: str
) -> None:
    contract = changed(releases.parent, case, version)
    (fault,) = faults(contract, releases, CHANGELOG.format(version))
    assert fault.startswith(f"{pointer}: ")
    assert f"{version} is no " in fault


@pytest.mark.parametrize("case", [BROKEN, WIDER, REWORDED])
def test_no_change_may_be_without_a_new_version(releases: Path, case: Case) -> None:
    first, *more = faults(
        changed(releases.parent, case, "1.2.3"), releases, CHANGELOG.format("1.2.3")
    )
    assert first == "1.2.3 is released, and this is not its text; info.version must move"
    assert [fault.partition(":")[0] for fault in more] == [next(iter(case.edits))]


def test_a_released_version_is_released_to_the_byte(releases: Path) -> None:
    contract = releases.parent / "openapi.yaml"
    contract.write_bytes((releases / "1.2.3.yaml").read_bytes())
    assert list(faults(contract, releases, "")) == []
    contract.write_bytes(contract.read_bytes() + b"# a comment\n")
    assert len(list(faults(contract, releases, ""))) == 1


def test_a_version_does_not_go_back(releases: Path) -> None:
    contract = changed(releases.parent, Case({}), "1.2.2")
    found = list(faults(contract, releases, CHANGELOG.format("1.2.2")))
    assert found == ["1.2.2 is older than the last release, 1.2.3"]


@pytest.mark.parametrize(
    "changelog",
    [
        "",
        CHANGELOG.format("1.2.3"),
        "## 1.3.0 - 2026-12-24\n\n### Added\n\n## 1.2.3 - 2026-12-23\n- x\n",
        "## 1.3.0\n- x",
    ],
)
def test_a_version_has_an_entry_in_the_changelog(releases: Path, changelog: str) -> None:
    contract = changed(releases.parent, WIDER, "1.3.0")
    assert list(faults(contract, releases, changelog)) == ["the changelog has no entry for 1.3.0"]


@pytest.mark.parametrize("version", ["1.2", "1.2.4-rc.1", "01.2.4", "next"])
def test_a_version_is_three_numbers(releases: Path, version: str) -> None:
    contract = changed(releases.parent, Case({}), version)
    with pytest.raises(ValueError, match="three numbers"):
        list(faults(contract, releases, CHANGELOG.format(version)))
