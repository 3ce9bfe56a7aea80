"""A model of the contract: the tasks and lists of several users, without SQL.

`Model.apply` checks a response against the state before its request, and then changes the state.
Values that the service chooses, such as IDs and positions, come from the response.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

JSON = dict[str, Any]

TASKS, LISTS = "tasks", "lists"
UNKNOWN_ETAG = f'"{"0" * 32}"'
POSITION = re.compile(r"[0-9A-Za-z]{1,64}")
PRIORITIES = ("none", "low", "medium", "high", "urgent")
EMPTY: dict[str, JSON] = {
    TASKS: {
        "description": None,
        "completed": False,
        "list_id": None,
        "parent_id": None,
        "priority": "none",
        "due": None,
        "labels": [],
    },
    LISTS: {},
}
PROPERTIES = {TASKS: ("title", *EMPTY[TASKS]), LISTS: ("name",)}
# Each `due` of the machine, with its exact time.
DUES: tuple[tuple[JSON | None, str | None], ...] = tuple(
    (None if date is None else {"date": date, "time": time, "timezone": timezone}, at)
    for date, time, timezone, at in (
        (None, None, None, None),
        ("2026-03-29", None, None, None),
        ("2026-03-29", "17:30", None, None),
        ("2026-03-29", None, "Asia/Calcutta", None),
        ("2026-03-28", "23:59", "Asia/Calcutta", "2026-03-28T18:29:00Z"),
        # Skipped, so with the offset before the gap; and the first of two equal local times.
        ("2026-03-29", "02:30", "Europe/Berlin", "2026-03-29T01:30:00Z"),
        ("2026-10-25", "02:30", "Europe/Berlin", "2026-10-25T00:30:00Z"),
        # In UTC not in the years 0001 to 9999.
        ("0001-01-01", "00:00", "Asia/Calcutta", None),
        ("9999-12-31", "23:59", "America/New_York", None),
        ("9999-12-31", None, None, None),
    )
)
UNKNOWN_DUE = {"date": "2026-03-29", "time": None, "timezone": "Europe/berlin"}


class Mismatch(AssertionError):
    """The service differs from the model."""


class Request(NamedTuple):
    """A request for one task or list, a batch, or an erasure."""

    operation: str
    user: str
    id: UUID | None = None
    body: JSON | None = None
    if_match: str | None = None
    if_none_match: str | None = None
    key: str | None = None

    @property
    def kind(self) -> str:
        return LISTS if self.operation.endswith("List") else TASKS

    @property
    def verb(self) -> str:
        return self.operation.removesuffix("Task").removesuffix("List")

    @property
    def method(self) -> str:
        return METHODS[self.verb]

    @property
    def path(self) -> str:
        if self.operation == "deleteUser":
            return f"/api/v1/users/{self.user}"
        suffix = {"move": "/move", "changeTasks": "/batch"}.get(self.verb, "")
        id_ = "" if self.id is None else f"/{self.id}"
        return f"/api/v1/users/{self.user}/{self.kind}{id_}{suffix}"

    @property
    def headers(self) -> dict[str, str]:
        headers = {
            "If-Match": self.if_match,
            "If-None-Match": self.if_none_match,
            "Idempotency-Key": self.key,
        }
        return {name: value for name, value in headers.items() if value is not None}


METHODS = {
    "create": "POST",
    "get": "GET",
    "replace": "PUT",
    "update": "PATCH",
    "delete": "DELETE",
    "move": "POST",
    "changeTasks": "POST",
    "deleteUser": "DELETE",
}


class Response(NamedTuple):
    """The relevant parts of a response."""

    status: int
    headers: dict[str, str]
    body: Any

    @property
    def problem(self) -> Outcome:
        errors = self.body["errors"]
        return Outcome(
            self.status,
            self.body["type"].removeprefix("/problems/"),
            errors[0]["pointer"] if errors else None,
        )


class Outcome(NamedTuple):
    """A problem: its status, its type and the pointer of its first error."""

    status: int
    type: str
    pointer: str | None = None


NOT_FOUND = {TASKS: Outcome(404, "task-not-found"), LISTS: Outcome(404, "list-not-found")}
PRECONDITION_FAILED = Outcome(412, "precondition-failed")
KEY_REUSED = Outcome(422, "idempotency-key-reused")
KEY_IN_USE = Outcome(409, "idempotency-key-in-use")
LIST_NOT_EMPTY = Outcome(409, "list-not-empty")


def reference_not_found(pointer: str) -> Outcome:
    return Outcome(409, "reference-not-found", pointer)


def hierarchy_conflict(pointer: str) -> Outcome:
    return Outcome(409, "hierarchy-conflict", pointer)


class Place(NamedTuple):
    """A list, the inbox or a parent. The lists of a user have one place, too."""

    list_id: str | None = None
    parent_id: str | None = None


@dataclass
class Model:
    """The resources of all users by kind, user and ID, as the service returns them."""

    resources: dict[str, dict[str, dict[UUID, JSON]]]
    keys: dict[tuple[str, str], tuple[str, JSON, JSON]] = field(default_factory=dict)
    """Operation, body and response of the first request with each key."""
    etags: dict[tuple[str, str, UUID], list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, users: list[str]) -> Model:
        return cls({kind: {user: {} for user in users} for kind in (TASKS, LISTS)})

    def copy(self) -> Model:
        resources = {
            kind: {user: dict(stored) for user, stored in by_user.items()}
            for kind, by_user in self.resources.items()
        }
        etags = {key: list(etags) for key, etags in self.etags.items()}
        return Model(resources, dict(self.keys), etags)

    def tasks(self, user: str) -> dict[UUID, JSON]:
        return self.resources[TASKS][user]

    def lists(self, user: str) -> dict[UUID, JSON]:
        return self.resources[LISTS][user]

    def find(self, request: Request) -> JSON | None:
        """Return the resource in the path of a request."""
        assert request.id
        return self.resources[request.kind][request.user].get(request.id)

    def apply(self, request: Request, response: Response, *, is_race: bool = False) -> None:
        """Check a response and change the state. Raise Mismatch if it cannot follow the state.

        In a race, other requests may change the siblings, so the place of a task or list among them
        is not checked. A key may be in use.
        """
        expected = self._problems(request)
        if is_race and request.key is not None and response.status == KEY_IN_USE.status:
            expected.add(KEY_IN_USE)
        if expected:
            require(response.status >= 400, f"{response.status} instead of {expected}")
            require(response.problem in expected, f"{response.problem} instead of {expected}")
            return
        require(response.status < 400, f"{response.status} {response.body}")
        VERBS[request.verb](self, request, response, is_race)

    def respaced(self, request: Request, siblings: list[JSON]) -> None:
        """Store siblings that a move into a small gap changed: only positions, not their order."""
        for sibling in siblings:
            id_ = UUID(sibling["id"])
            stored = self.resources[request.kind][request.user][id_]
            if sibling["position"] == stored["position"]:
                require(sibling == stored, f"{sibling} instead of {stored}")
                continue
            changes = {name: sibling[name] for name in ("position", "updated_at", "etag")}
            require(sibling == stored | changes, f"{sibling} instead of {stored}")
            require(at(stored["updated_at"]) < at(sibling["updated_at"]), "updated_at")
            etags = self.etags[request.kind, request.user, id_]
            require(sibling["etag"] not in etags, "the ETag was used before")
            etags.append(sibling["etag"])
            self.resources[request.kind][request.user][id_] = sibling
        positions = [sibling["position"] for sibling in siblings]
        require(positions == sorted(set(positions)), f"{positions} are not ascending")

    # --- checks, in the order of the contract ----------------------------------------------------

    def _problems(self, request: Request) -> set[Outcome]:
        """Return what the first failing check may report; nothing if all succeed."""
        body = request.body or {}
        if body.get("due") == UNKNOWN_DUE:
            return {reference_not_found("/due/timezone")}
        if request.key is not None:
            known = self.keys.get((request.user, request.key))
            if known is not None:
                return set() if known[:2] == (request.operation, body) else {KEY_REUSED}
        if request.id is not None:
            stored = self.find(request)
            if stored is None and request.verb != "replace":
                return {NOT_FOUND[request.kind]}
            if not _is_satisfied(request, stored):
                return {PRECONDITION_FAILED}
        return self._conflicts(request)

    def _conflicts(self, request: Request) -> set[Outcome]:
        """Return all conflicts. The contract does not order them."""
        body = request.body or {}
        if request.verb == "get" or (request.kind == TASKS and request.verb == "delete"):
            return set()
        if request.kind == TASKS:
            return self._task_conflicts(request, body)
        if request.verb == "delete":
            tasks = self.tasks(request.user).values()
            used = any(task["list_id"] == str(request.id) for task in tasks)
            return {LIST_NOT_EMPTY} if used else set()
        return self._after_conflicts(request, Place())

    def _task_conflicts(self, request: Request, body: JSON) -> set[Outcome]:
        place = self.place_after(request)
        sent = (
            place
            if request.verb in {"create", "replace", "move"}
            else Place(body.get("list_id"), body.get("parent_id"))
        )
        conflicts = set()
        if place.list_id is not None and place.parent_id is not None:
            conflicts |= {hierarchy_conflict("/list_id"), hierarchy_conflict("/parent_id")}
        if sent.list_id is not None and UUID(sent.list_id) not in self.lists(request.user):
            conflicts.add(reference_not_found("/list_id"))
        if sent.parent_id is not None:
            conflicts |= self._parent_conflicts(request, UUID(sent.parent_id))
        return conflicts | self._after_conflicts(request, place)

    def _parent_conflicts(self, request: Request, parent_id: UUID) -> set[Outcome]:
        tasks = self.tasks(request.user)
        parent = tasks.get(parent_id)
        if parent_id == request.id:
            return {hierarchy_conflict("/parent_id")}
        has_subtasks = any(task["parent_id"] == str(request.id) for task in tasks.values())
        conflicts = {hierarchy_conflict("/parent_id")} if has_subtasks else set()
        if parent is None:
            conflicts.add(reference_not_found("/parent_id"))
        elif parent["parent_id"] is not None:
            conflicts.add(hierarchy_conflict("/parent_id"))
        return conflicts

    def _after_conflicts(self, request: Request, place: Place) -> set[Outcome]:
        if request.verb != "move" or request.body is None or request.body["after_id"] is None:
            return set()
        after_id = UUID(request.body["after_id"])
        siblings = self.siblings(request.kind, request.user, place, without=request.id)
        is_sibling = any(UUID(sibling["id"]) == after_id for sibling in siblings)
        return set() if is_sibling else {reference_not_found("/after_id")}

    # --- places ----------------------------------------------------------------------------------

    def place_after(self, request: Request) -> Place:
        """Return the place of a task after a request."""
        body = request.body or {}
        stored = self.find(request) if request.verb in {"update", "move"} else None
        keeps = stored is not None and (
            request.verb == "update" or not {"list_id", "parent_id"} & set(body)
        )
        base = stored if keeps and stored is not None else {"list_id": None, "parent_id": None}
        return Place(*(body.get(name, base[name]) for name in ("list_id", "parent_id")))

    def siblings(
        self, kind: str, user: str, place: Place, *, without: UUID | None = None
    ) -> list[JSON]:
        """Return the tasks of a place, or all lists, in their order."""
        siblings = [
            stored
            for id_, stored in self.resources[kind][user].items()
            if id_ != without and (kind == LISTS or place_of(stored) == place)
        ]
        return sorted(siblings, key=lambda each: (each["position"], UUID(each["id"]).int))

    def _check_position(self, request: Request, written: JSON, after_id: str | None) -> None:
        """Check that a resource is directly after a sibling, or first if it is None."""
        place = Place() if request.kind == LISTS else place_of(written)
        siblings = self.siblings(request.kind, request.user, place, without=UUID(written["id"]))
        ids = [sibling["id"] for sibling in siblings]
        index = 0 if after_id is None else ids.index(str(UUID(after_id))) + 1
        before = [sibling["position"] for sibling in siblings[:index]]
        after = [sibling["position"] for sibling in siblings[index:]]
        position = written["position"]
        require(all(each < position for each in before), f"{position} is not after {before}")
        require(all(position < each for each in after), f"{position} is not before {after}")

    # --- successful requests ---------------------------------------------------------------------

    def _create(self, request: Request, response: Response, is_race: bool) -> None:  # noqa: FBT001
        body = request.body or {}
        require(response.status == 201, f"{response.status}")
        if request.key is not None:
            if (request.user, request.key) in self.keys:
                first = self.keys[request.user, request.key][2]
                require(response.body == first, f"{response.body} instead of {first}")
                return
            self.keys[request.user, request.key] = request.operation, body, response.body
        self._created(request, response, is_race)

    def _get(self, request: Request, response: Response, _: bool) -> None:  # noqa: FBT001
        stored = self.find(request)
        assert stored
        matches = matches_weakly(request.if_none_match, stored["etag"])
        require(response.status == (304 if matches else 200), f"{response.status}")
        require(response.headers["etag"] == stored["etag"], "ETag")
        require(matches or response.body == stored, f"{response.body} instead of {stored}")

    def _replace(self, request: Request, response: Response, is_race: bool) -> None:  # noqa: FBT001
        if self.find(request) is None:
            require(response.status == 201, f"{response.status}")
            self._created(request, response, is_race)
        else:
            self._changed(request, response, EMPTY[request.kind] | (request.body or {}))

    def _update(self, request: Request, response: Response, _: bool) -> None:  # noqa: FBT001
        stored = self.find(request)
        if request.body:
            self._changed(request, response, request.body)
        else:
            require(response.body == stored, f"{response.body} instead of {stored}")

    def _move(self, request: Request, response: Response, is_race: bool) -> None:  # noqa: FBT001
        changes: JSON = {"position": response.body.get("position")}
        if request.kind == TASKS:
            changes |= self.place_after(request)._asdict()
        self._changed(request, response, changes)
        if not is_race:
            assert request.body
            self._check_position(request, response.body, request.body["after_id"])

    def _delete(self, request: Request, response: Response, _: bool) -> None:  # noqa: FBT001
        assert request.id
        require(response.status == 204, f"{response.status}")
        stored = self.resources[request.kind][request.user]
        del stored[request.id]
        subtasks = [id_ for id_, it in stored.items() if it.get("parent_id") == str(request.id)]
        for id_ in subtasks:
            del stored[id_]

    def _created(self, request: Request, response: Response, is_race: bool) -> None:  # noqa: FBT001
        id_ = response.body["id"] if request.id is None else str(request.id)
        now = response.body["updated_at"]
        created = {
            "id": id_,
            "position": response.body["position"],
            "created_at": now,
            **EMPTY[request.kind],
            **(request.body or {}),
        }
        location = f"/api/v1/users/{request.user}/{request.kind}/{id_}"
        require(response.headers["location"] == location, f"{response.headers['location']}")
        self._store(request, response, created, None)
        if not is_race:
            place = Place() if request.kind == LISTS else place_of(response.body)
            others = self.siblings(request.kind, request.user, place, without=UUID(id_))
            self._check_position(request, response.body, others[-1]["id"] if others else None)

    def _changed(self, request: Request, response: Response, changes: JSON) -> None:
        stored = self.find(request)
        assert stored
        require(response.status == 200, f"{response.status}")
        require(at(stored["updated_at"]) < at(response.body["updated_at"]), "updated_at")
        self._store(request, response, stored | changes, stored)

    def _store(
        self, request: Request, response: Response, expected: JSON, before: JSON | None
    ) -> None:
        written: JSON = response.body
        expected = {
            **{name: expected[name] for name in PROPERTIES[request.kind]},
            **{name: expected[name] for name in ("id", "position", "created_at")},
            "user_id": request.user,
            "updated_at": written["updated_at"],
            "etag": response.headers["etag"],
        }
        if request.kind == TASKS:
            expected["labels"] = sorted(expected["labels"])
            expected["due_at"] = next(time for due, time in DUES if due == expected["due"])
            completed_at = before["completed_at"] if before else None
            expected["completed_at"] = (
                (completed_at or written["updated_at"]) if expected["completed"] else None
            )
        require(written == expected, f"{written} instead of {expected}")
        require(POSITION.fullmatch(written["position"]), written["position"])
        etags = self.etags.setdefault((request.kind, request.user, UUID(written["id"])), [])
        require(written["etag"] not in etags, "the ETag was used before")
        etags.append(written["etag"])
        self.resources[request.kind][request.user][UUID(written["id"])] = written


VERBS = {
    "create": Model._create,
    "get": Model._get,
    "replace": Model._replace,
    "update": Model._update,
    "move": Model._move,
    "delete": Model._delete,
}


def require(condition: object, message: str) -> None:
    if not condition:
        raise Mismatch(message)


def at(timestamp: str) -> datetime:
    return datetime.fromisoformat(timestamp)


def place_of(task: JSON) -> Place:
    return Place(task["list_id"], task["parent_id"])


def matches_weakly(tags: str | None, etag: str) -> bool:
    return tags is not None and (tags == "*" or etag in tags)


def _is_satisfied(request: Request, stored: JSON | None) -> bool:
    """Return whether the preconditions of a change hold. The tags of the machine are simple."""
    if request.verb == "get":
        return True
    if request.if_none_match is not None and (stored is not None or request.if_match is not None):
        return False
    if request.if_match is None:
        return True
    tags = request.if_match.replace(" ", "").split(",")
    return stored is not None and ("*" in tags or stored["etag"] in tags)


# --- lists of tasks ------------------------------------------------------------------------------


def sort_key(task: JSON, sort: str) -> tuple[Any, ...]:
    """Return the ascending sort key of a task."""
    id_ = UUID(task["id"]).int
    if sort == "due":
        due = task["due"]
        # A task without a time is after every time, and one without `due` is last.
        return (1, "", "", id_) if due is None else (0, due["date"], due["time"] or "~", id_)
    if sort == "priority":
        return PRIORITIES.index(task["priority"]), id_
    return (task[sort] if sort == "position" else at(task[sort])), id_


def is_wanted(task: JSON, query: JSON) -> bool:
    """Return whether a task matches all filters of a query."""
    return all(FILTERS[name](task, str(value)) for name, value in query.items() if name in FILTERS)


def _in_list(task: JSON, list_id: str) -> bool:
    if list_id == "none":
        return place_of(task) == Place()
    return bool(task["list_id"] == list_id)


def _has_words(task: JSON, q: str) -> bool:
    # Sufficient for the texts of the machine; test_search has the complete rule.
    text = f"{task['title']} {task['description'] or ''}"
    words = re.findall(r"[^\W_]+", text.lower())
    prefixes = re.findall(r"[^\W_]+", q.lower())
    return prefixes != [] and all(any(word.startswith(it) for word in words) for it in prefixes)


def _is_due(task: JSON) -> str:
    return str((task["due"] or {}).get("date", ""))


FILTERS: dict[str, Any] = {
    "completed": lambda task, value: task["completed"] == (value == "true"),
    "list_id": _in_list,
    "parent_id": lambda task, value: (task["parent_id"] or "none") == value,
    "priority": lambda task, value: task["priority"] in value.split(","),
    "labels": lambda task, value: set(value.split(",")) <= set(task["labels"]),
    "has_due": lambda task, value: (task["due"] is not None) == (value == "true"),
    "due_after": lambda task, value: _is_due(task) > value,
    "due_before": lambda task, value: "" < _is_due(task) < value,
    "q": _has_words,
    "created_after": lambda task, value: at(task["created_at"]) > at(value),
    "created_before": lambda task, value: at(task["created_at"]) < at(value),
    "updated_after": lambda task, value: at(task["updated_at"]) > at(value),
    "updated_before": lambda task, value: at(task["updated_at"]) < at(value),
}
