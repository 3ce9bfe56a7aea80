"""Compares the service, step by step, with a model of the contract without SQL.

Hypothesis generates the steps of three users. The same machine then runs on repositories with
deliberate defects, and must detect each of them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from datetime import datetime
from itertools import count
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import delete, select

from app.asgi import create_app
from app.domain.tasks import lists, repository
from app.domain.tasks.models import TaskRecord
from app.domain.tasks.repository import TaskRepository
from app.domain.tasks.schemas import Task, TaskPatch
from app.http.pagination import CursorPosition
from app.settings import Settings
from tests.support.client import tasks_of
from tests.support.database import connect
from tests.support.lifespan import running

pytestmark = [
    pytest.mark.requirement("FR-002", "FR-003", "FR-004", "FR-005", "FR-006", "FR-007", "FR-009"),
    pytest.mark.requirement("FR-010", "FR-012", "FR-013", "FR-014"),
    pytest.mark.requirement("FR-015", "FR-016", "FR-017", "FR-018", "FR-019", "FR-020"),
]

TEXTS = ("milk", "Milk, bread", "two milks", "ÄPFEL und Birnen", "x_y", "été 2026")
QUERIES = ("m", "MILK b", "bre mil", "äpf", "y", "ÉT 20", "absent", "--")
CHOSEN = [UUID(int=number) for number in (1, 2, 2**128 - 1)]
UNKNOWN = f'"{"0" * 32}"'
CONDITIONS = ("none", "none", "current", "current", "listed", "any", "weak", "stale")
NARROWED_BY = ("created_after", "created_before", "updated_after", "updated_before")
LONG_AGO = "2001-01-01T00:00:00Z"

members: dict[str, st.SearchStrategy[Any]] = {
    "title": st.sampled_from(TEXTS),
    "description": st.none() | st.sampled_from(TEXTS),
    "completed": st.booleans(),
}
numbers = st.sampled_from(range(12))
users = st.sampled_from([0, 0, 0, 1, 2])
conditions = st.sampled_from(CONDITIONS)
queries = st.fixed_dictionaries(
    {"limit": st.sampled_from([1, 2, 3]), "order": st.sampled_from(["asc", "desc"])},
    optional={
        "sort": st.sampled_from(["created_at", "updated_at"]),
        "completed": st.sampled_from(["true", "false"]),
        "q": st.sampled_from(QUERIES),
        # The step replaces the number by one of the user's timestamps.
        **{
            name: st.tuples(st.sampled_from(["created_at", "updated_at"]), numbers)
            for name in NARROWED_BY
        },
    },
)


class Service:
    """The application on PostgreSQL, with a synchronous interface."""

    def __init__(self, settings: Settings, database_url: str) -> None:
        # With a factory, the runner does not replace the event loop of pytest.
        self.runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.stack = AsyncExitStack()
        self.client, self.connection = self.runner.run(self._open(settings, database_url))

    async def _open(
        self, settings: Settings, database_url: str
    ) -> tuple[httpx.AsyncClient, asyncpg.Connection]:
        app = await self.stack.enter_async_context(running(create_app(settings)))
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]  # httpx declares ASGI differently
        client = httpx.AsyncClient(transport=transport, base_url="http://tasks.test")
        await self.stack.enter_async_context(client)
        connection = await connect(database_url)
        self.stack.push_async_callback(connection.close)
        return client, connection

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        return self.runner.run(self.client.request(method, url, **options))

    def execute(self, statement: str, *values: object) -> None:
        self.runner.run(self.connection.execute(statement, *values))

    def close(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()


@pytest.fixture
def service(
    settings: Settings,
    database_url: str,
    database: asyncpg.Connection,  # noqa: ARG001 - truncated
) -> Iterator[Service]:
    opened = Service(settings, database_url)
    yield opened
    opened.close()


class Precondition(NamedTuple):
    """A header value, and the result of each comparison with the task's ETag."""

    value: str | None
    strongly: bool
    weakly: bool


class StoredCursor(NamedTuple):
    """A cursor, its query and its position in the list."""

    user: str
    query: dict[str, Any]
    cursor: str
    position: tuple[datetime, UUID]


class ThreeUsers(RuleBasedStateMachine):
    """The state machine. Its dictionaries are the model."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.service = service
        # Hypothesis repeats a failing run, which must start from the same state.
        service.execute("TRUNCATE tasks, idempotency_keys")
        self.users = ["alice", "bob", "carol"]
        self.tasks: dict[str, dict[UUID, dict[str, Any]]] = {user: {} for user in self.users}
        self.tags: dict[tuple[str, UUID], list[str]] = {}
        self.ids = list(CHOSEN)
        self.cursors: list[StoredCursor] = []

    @initialize(bodies=st.lists(st.fixed_dictionaries(members), min_size=5, max_size=8))
    def begin(self, bodies: list[dict[str, Any]]) -> None:
        for user, body in zip([0, 0, 0, 0, 1, 1, 2, 0], bodies, strict=False):
            self.create(user, body)

    # --- steps -----------------------------------------------------------------------------------

    @rule(
        user=users,
        body=st.fixed_dictionaries(
            {"title": members["title"]},
            optional={name: members[name] for name in ("description", "completed")},
        ),
    )
    def create(self, user: int, body: dict[str, Any]) -> None:
        owner = self.users[user]
        response = self.service.request("POST", tasks_of(owner), json=body)
        assert response.status_code == 201
        id_ = UUID(response.json()["id"])
        assert id_ not in self.ids
        assert response.headers["location"] == f"{tasks_of(owner)}/{id_}"
        self.ids.append(id_)
        self._written(owner, id_, response, {"description": None, "completed": False, **body})

    @rule(user=users, number=numbers, condition=conditions)
    def get(self, user: int, number: int, condition: str) -> None:
        owner, id_, task = self._task(user, number)
        precondition = self._precondition(owner, id_, condition)
        response = self._request("GET", owner, id_, {"If-None-Match": precondition.value})
        expected = (
            (404, None) if task is None else (304, None) if precondition.weakly else (200, task)
        )
        assert response.status_code == expected[0]
        assert response.status_code != 200 or response.json() == expected[1]

    @rule(
        user=users,
        number=numbers,
        condition=conditions,
        only_create=st.sampled_from([False, False, False, True]),
        body=st.fixed_dictionaries(members),
    )
    def replace(
        self,
        user: int,
        number: int,
        condition: str,
        only_create: bool,  # noqa: FBT001 - Hypothesis draws it
        body: dict[str, Any],
    ) -> None:
        owner, id_, task = self._task(user, number)
        precondition = self._precondition(owner, id_, condition)
        headers = {"If-Match": precondition.value, "If-None-Match": "*" if only_create else None}
        response = self._request("PUT", owner, id_, headers, json=body)
        rejected = (precondition.value and not precondition.strongly) or (
            only_create and (precondition.value or task)
        )
        if rejected:
            assert response.status_code == 412
        else:
            assert response.status_code == (201 if task is None else 200)
            self._written(owner, id_, response, body)

    @rule(
        user=users,
        number=numbers,
        condition=conditions,
        body=st.fixed_dictionaries({}, optional=members),
    )
    def change(self, user: int, number: int, condition: str, body: dict[str, Any]) -> None:
        owner, id_, task = self._task(user, number)
        precondition = self._precondition(owner, id_, condition)
        response = self._request("PATCH", owner, id_, {"If-Match": precondition.value}, json=body)
        if task is None:
            assert response.status_code == 404
        elif precondition.value and not precondition.strongly:
            assert response.status_code == 412
        elif body:
            assert response.status_code == 200
            self._written(owner, id_, response, {**_text(task), **body})
        else:
            assert response.status_code == 200
            assert response.json() == task

    @rule(user=users, number=numbers, condition=conditions)
    def delete(self, user: int, number: int, condition: str) -> None:
        owner, id_, task = self._task(user, number)
        precondition = self._precondition(owner, id_, condition)
        response = self._request("DELETE", owner, id_, {"If-Match": precondition.value})
        if task is None:
            assert response.status_code == 404
        elif precondition.value and not precondition.strongly:
            assert response.status_code == 412
        else:
            assert response.status_code == 204
            del self.tasks[owner][id_]

    @rule(user=users, query=queries)
    def walk(self, user: int, query: dict[str, Any]) -> None:
        owner = self.users[user]
        query = query | {
            name: self._instant(owner, *query[name]) for name in NARROWED_BY if name in query
        }
        self._walk(owner, query)

    @rule(number=numbers, limit=st.sampled_from([1, 2, 3]))
    def follow_an_old_cursor(self, number: int, limit: int) -> None:
        for stored in self.cursors[number : number + 1]:
            query = stored.query | {"limit": limit}
            expected = [
                task
                for key, task in self._list(stored.user, query)
                if key > _key(stored.position, query)
            ]
            self._page(stored.user, query, stored.cursor, expected)

    @rule(
        number=numbers,
        user=users,
        other=st.sampled_from([{}, {"q": "other"}, {"sort": "updated_at", "order": "asc"}]),
    )
    def misuse_a_cursor(self, number: int, user: int, other: dict[str, str]) -> None:
        owner = self.users[user]
        for stored in self.cursors[number : number + 1]:
            query = stored.query | other
            for _ in range((owner, query) != (stored.user, stored.query)):
                response = self.service.request(
                    "GET", tasks_of(owner), params={**query, "cursor": stored.cursor}
                )
                assert response.status_code == 400
                assert response.json()["type"] == "/problems/invalid-cursor"

    @rule(user=users)
    def make_instants_equal(self, user: int) -> None:
        """Set all timestamps to one value, so that only the ids define the order."""
        owner = self.users[user]
        tasks = self.tasks[owner].values()
        if tasks:
            first = min((task["created_at"] for task in tasks), key=_at)
            last = max((task["updated_at"] for task in tasks), key=_at)
            self.service.execute(
                "UPDATE tasks SET created_at = $2, updated_at = $3 WHERE user_id = $1",
                owner,
                _at(first),
                _at(last),
            )
            for task in tasks:
                task |= {"created_at": first, "updated_at": last}

    @rule()
    def walk_everything(self) -> None:
        for owner in self.users:
            self._walk(owner, {"limit": 3, "order": "asc"})

    # --- the model -------------------------------------------------------------------------------

    def _task(self, user: int, number: int) -> tuple[str, UUID, dict[str, Any] | None]:
        """Choose an id: mostly of a task of the user, else of another user or unused."""
        owner = self.users[user]
        ids = [*self.tasks[owner], *self.ids] if number < 8 else self.ids[::-1]
        id_ = ids[number % len(ids)]
        return owner, id_, self.tasks[owner].get(id_)

    def _precondition(self, owner: str, id_: UUID, condition: str) -> Precondition:
        task = self.tasks[owner].get(id_)
        exists, etag = task is not None, task["etag"] if task else UNKNOWN
        stale = [other for other in self.tags.get((owner, id_), []) if other != etag]
        return {
            "none": Precondition(None, strongly=False, weakly=False),
            "current": Precondition(etag, strongly=exists, weakly=exists),
            "weak": Precondition(f"W/{etag}", strongly=False, weakly=exists),
            "listed": Precondition(f'"other" ,{etag}', strongly=exists, weakly=exists),
            "stale": Precondition((stale or [UNKNOWN])[-1], strongly=False, weakly=False),
            "any": Precondition("*", strongly=exists, weakly=exists),
        }[condition]

    def _request(
        self, method: str, owner: str, id_: UUID, headers: dict[str, str | None], **options: Any
    ) -> httpx.Response:
        sent = {name: value for name, value in headers.items() if value is not None}
        return self.service.request(method, f"{tasks_of(owner)}/{id_}", headers=sent, **options)

    def _written(
        self, owner: str, id_: UUID, response: httpx.Response, text: dict[str, Any]
    ) -> None:
        before = self.tasks[owner].get(id_)
        task: dict[str, Any] = response.json()
        now = task["updated_at"]
        bound = before["completed_at"] if before else None
        assert task == {
            "id": str(id_),
            "user_id": owner,
            **text,
            "completed_at": (bound or now) if text["completed"] else None,
            "created_at": before["created_at"] if before else now,
            "updated_at": now,
            "etag": response.headers["etag"],
        }
        assert before is None or _at(before["updated_at"]) < _at(now)
        assert task["etag"] not in self.tags.setdefault((owner, id_), [])
        self.tags[owner, id_].append(task["etag"])
        self.tasks[owner][id_] = task

    def _instant(self, owner: str, field: str, number: int) -> str:
        known = [task[field] for task in self.tasks[owner].values()] or [LONG_AGO]
        return str(known[number % len(known)])

    def _list(
        self, owner: str, query: dict[str, Any]
    ) -> list[tuple[tuple[int, int], dict[str, Any]]]:
        """Return the complete list in order, each task with its position."""
        sort = query.get("sort", "created_at")
        result = [
            (_key((_at(task[sort]), id_), query), task)
            for id_, task in self.tasks[owner].items()
            if _is_wanted(task, query)
        ]
        return sorted(result, key=lambda pair: pair[0])

    def _walk(self, owner: str, query: dict[str, Any]) -> None:
        rest = [task for _, task in self._list(owner, query)]
        cursor = self._page(owner, query, None, rest)
        while cursor is not None:
            rest = rest[query["limit"] :]
            cursor = self._page(owner, query, cursor, rest)

    def _page(
        self, owner: str, query: dict[str, Any], cursor: str | None, rest: list[dict[str, Any]]
    ) -> str | None:
        """Request a page, compare it with the start of `rest`, and store its cursor."""
        params = query | ({} if cursor is None else {"cursor": cursor})
        response = self.service.request("GET", tasks_of(owner), params=params)
        assert response.status_code == 200
        page: dict[str, Any] = response.json()
        assert page["items"] == rest[: query["limit"]]
        follow: str | None = page["next_cursor"]
        assert (follow is not None) == (len(rest) > query["limit"])
        if follow is not None:
            last = page["items"][-1]
            position = (_at(last[query.get("sort", "created_at")]), UUID(last["id"]))
            self.cursors = [*self.cursors, StoredCursor(owner, query, follow, position)][-12:]
        return follow


def _at(timestamp: str) -> datetime:
    return datetime.fromisoformat(timestamp)


def _key(position: tuple[datetime, UUID], query: dict[str, Any]) -> tuple[int, int]:
    """Return the ascending sort key of a position for a query."""
    sign = 1 if query.get("order") == "asc" else -1
    at, id_ = position
    whole = at.toordinal() * 86_400 + at.hour * 3600 + at.minute * 60 + at.second
    return sign * (whole * 1_000_000 + at.microsecond), sign * id_.int


def _text(task: dict[str, Any]) -> dict[str, Any]:
    return {name: task[name] for name in members}


def _words(text: str) -> list[str]:
    # Sufficient for the texts above; test_search has the complete rule.
    return re.findall(r"[^\W_]+", text.lower())


def _is_wanted(task: dict[str, Any], query: dict[str, Any]) -> bool:
    created, updated = _at(task["created_at"]), _at(task["updated_at"])
    have = _words(f"{task['title']} {task['description'] or ''}")
    terms = _words(query.get("q", task["title"]))
    return (
        query.get("completed", str(task["completed"]).lower()) == str(task["completed"]).lower()
        and created > _at(query.get("created_after", LONG_AGO))
        and created < _at(query.get("created_before", "2999-01-01T00:00:00Z"))
        and updated > _at(query.get("updated_after", LONG_AGO))
        and updated < _at(query.get("updated_before", "2999-01-01T00:00:00Z"))
        and terms != []
        and all(any(word.startswith(beginning) for word in have) for beginning in terms)
    )


def explore(service: Service, *, examples: int, steps: int) -> None:
    """Run the machine with deterministic steps."""
    run_state_machine_as_test(
        lambda: ThreeUsers(service),  # type: ignore[arg-type]  # it accepts any callable
        settings=hypothesis_settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
        ),
    )


def test_responses_match_the_model(service: Service) -> None:
    explore(service, examples=30, steps=50)


# --- the machine detects defects -----------------------------------------------------------------

UPDATES = repository._update_statement


@pytest.fixture
def sabotaged(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Break the repository for one test, without caching compiled statements."""
    UPDATES.cache_clear()
    yield monkeypatch
    UPDATES.cache_clear()


def _reads_without_user(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(repository, "SELECT", select(*lists.COLUMNS).where(repository.BY_ID[1]))


def _deletes_without_user(patch: pytest.MonkeyPatch) -> None:
    statement = delete(TaskRecord).where(repository.BY_ID[1]).returning(TaskRecord.id)
    patch.setattr(repository, "DELETE", statement)


def _changes_without_user(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(repository, "BY_ID", repository.BY_ID[1:])


def _lists_without_user(patch: pytest.MonkeyPatch) -> None:
    original = lists.list_statement

    def forgetful(*arguments: Any, **options: Any) -> Any:
        statement: Any = original(*arguments, **options)
        broken = statement._clone()
        broken._where_criteria = statement._where_criteria[1:]
        return broken

    patch.setattr(repository, "list_statement", forgetful)


def _moves_positions(patch: pytest.MonkeyPatch, by: int) -> None:
    def beside(at: datetime, id_: UUID) -> CursorPosition:
        return CursorPosition(at, UUID(int=(id_.int + by) % 2**128))

    patch.setattr(repository, "CursorPosition", beside)


def _repeats_the_last_task_descending(patch: pytest.MonkeyPatch) -> None:
    _moves_positions(patch, 1)


def _repeats_the_last_task_ascending(patch: pytest.MonkeyPatch) -> None:
    _moves_positions(patch, -1)


def _forgets_tie_break(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(repository, "CursorPosition", lambda at, _: CursorPosition(at, UUID(int=0)))


def _repeats_tags(patch: pytest.MonkeyPatch) -> None:
    numbers = count()
    patch.setattr(repository, "uuid4", lambda: UUID(int=next(numbers) % 5))


def _ignores_tags(patch: pytest.MonkeyPatch) -> None:
    original = repository._update_statement
    patch.setattr(
        repository,
        "_update_statement",
        lambda fields, *, completed, any_etag: original(  # noqa: ARG005 - what is broken
            fields, completed=completed, any_etag=True
        ),
    )


def _writes_what_was_not_sent(patch: pytest.MonkeyPatch) -> None:
    original = TaskRepository.update_task

    async def generous(
        self: TaskRepository, user_id: str, task_id: UUID, change: TaskPatch, **options: Any
    ) -> Task:
        whole = {"completed": False} | {
            name: value
            for name, value in msgspec.structs.asdict(change).items()
            if value is not msgspec.UNSET
        }
        return await original(self, user_id, task_id, TaskPatch(**whole), **options)

    patch.setattr(TaskRepository, "update_task", generous)


def _leaves_updated_at(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(repository, "NEXT_UPDATED_AT", TaskRecord.updated_at)


@pytest.mark.parametrize(
    "sabotage",
    [
        _reads_without_user,
        _deletes_without_user,
        _changes_without_user,
        _lists_without_user,
        _repeats_the_last_task_descending,
        _repeats_the_last_task_ascending,
        _forgets_tie_break,
        _repeats_tags,
        _ignores_tags,
        _writes_what_was_not_sent,
        _leaves_updated_at,
    ],
    ids=lambda sabotage: sabotage.__name__.strip("_"),
)
def test_broken_repository_is_detected(
    service: Service,
    sabotaged: pytest.MonkeyPatch,
    sabotage: Callable[[pytest.MonkeyPatch], None],
) -> None:
    sabotage(sabotaged)
    with pytest.raises(AssertionError):
        explore(service, examples=40, steps=50)
