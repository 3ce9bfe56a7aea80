"""The state machine: Hypothesis generates the requests of several users, one by one and in races.

After each race, some order of its requests must explain all responses and the state afterwards.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from itertools import cycle, permutations
from operator import gt, lt
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import httpx
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from app.asgi import create_app
from app.settings import Settings
from tests.integration.state_machine.model import (
    DUES,
    JSON,
    LISTS,
    PRIORITIES,
    TASKS,
    UNKNOWN_DUE,
    UNKNOWN_ETAG,
    Mismatch,
    Model,
    Place,
    Request,
    Response,
    at,
    is_wanted,
    place_of,
    require,
    sort_key,
)
from tests.support.client import ContractClient
from tests.support.database import connect
from tests.support.integrity import integrity_errors
from tests.support.lifespan import running
from tools.fault_injection.contract import CHECK

USERS = ["alice", "bob", "carol"]
TEXTS = ("milk", "Milk, bread", "two milks", "ÄPFEL und Birnen", "x_y", "été 2026")
QUERIES = ("m", "MILK b", "bre mil", "äpf", "y", "ÉT 20", "absent", "--")
# Their order by code point is not that of a dictionary, nor that of UTF-16.
LABELS = ("a", "B", "b", "b c", "ä", "ａ", "😀")  # noqa: RUF001 - a full-width letter
CHOSEN = [UUID(int=number) for number in (1, 2, 2**128 - 1)]
UNKNOWN_ID = UUID(int=2**64)
CONDITIONS = ("none", "none", "none", "current", "current", "listed", "any", "weak", "stale")
INSTANTS = ("created_after", "created_before", "updated_after", "updated_before")
LONG_AGO = "2001-01-01T00:00:00Z"
# A number chooses among the resources that exist. The highest choose IDs of other users, deleted
# and unknown ones.
MAX_EXISTING, MAX_NUMBER = 11, 14
MAX_CURSORS = 12
# A new request with one of few keys, or the first request of a key again.
NEW_KEY, SAME_REQUEST = "new", "same"
KEYS = 4

numbers = st.integers(0, MAX_NUMBER)
references = st.none() | numbers
users = st.sampled_from([0, 0, 0, 1, 2])
instants = st.tuples(st.sampled_from(["created_at", "updated_at"]), numbers)
labels = st.lists(st.sampled_from(LABELS), max_size=3, unique=True)
properties: dict[str, st.SearchStrategy[Any]] = {
    "title": st.sampled_from(TEXTS),
    "description": st.none() | st.sampled_from(TEXTS),
    "completed": st.booleans(),
    "list_id": references,
    "parent_id": references,
    "priority": st.sampled_from(PRIORITIES),
    "due": st.sampled_from([due for due, _ in DUES] * 2 + [UNKNOWN_DUE]),
    "labels": labels,
}
# Most tasks have a list or a parent, or neither.
places = st.sampled_from(["list_id", "parent_id", "list_id", "parent_id", "both", "neither"])
filters: dict[str, st.SearchStrategy[Any]] = {
    "completed": st.sampled_from(["true", "false"]),
    "list_id": references,
    "parent_id": references,
    "priority": st.lists(st.sampled_from(PRIORITIES), min_size=1, max_size=3).map(",".join),
    "labels": st.lists(st.sampled_from(LABELS), min_size=1, max_size=2).map(",".join),
    "has_due": st.sampled_from(["true", "false"]),
    "due_after": st.sampled_from([due["date"] for due, _ in DUES if due]),
    "due_before": st.sampled_from([due["date"] for due, _ in DUES if due]),
    "q": st.sampled_from(QUERIES),
    # The step replaces the number by one of the user's timestamps.
    **dict.fromkeys(INSTANTS, instants),
}
queries = st.builds(
    lambda query, names, values: query | {name: values[name] for name in names},
    st.fixed_dictionaries(
        {"limit": st.sampled_from([1, 2, 3]), "order": st.sampled_from(["asc", "desc"])},
        optional={
            "sort": st.sampled_from(["created_at", "updated_at", "due", "priority", "position"])
        },
    ),
    # More filters would leave no task.
    st.lists(st.sampled_from(sorted(filters)), max_size=2, unique=True),
    st.fixed_dictionaries(filters),
)


class Choice(NamedTuple):
    """A request whose IDs and tags are chosen when it is sent."""

    operation: str
    number: int
    condition: str = "none"
    body: JSON | None = None
    only_create: bool = False
    key: str | None = None


def bodies(*required: str) -> st.SearchStrategy[JSON]:
    optional = {name: properties[name] for name in properties if name not in required}
    return st.builds(
        with_place,
        st.fixed_dictionaries({name: properties[name] for name in required}, optional=optional),
        places,
    )


def with_place(body: JSON, place: str) -> JSON:
    """Leave out one of the two references, or send null for it if the body must have all."""
    dropped = {"list_id": "parent_id", "parent_id": "list_id"}.get(place)
    if place == "neither":
        return {name: body[name] for name in body if name not in {"list_id", "parent_id"}}
    return {name: None if name == dropped else body[name] for name in body}


patches = st.builds(with_place, st.fixed_dictionaries({}, optional=properties), places)
names = st.fixed_dictionaries({"name": st.sampled_from(TEXTS)})
moves = st.builds(
    with_place,
    st.fixed_dictionaries(
        {"after_id": references}, optional={"list_id": references, "parent_id": references}
    ),
    places,
)
keys = st.sampled_from([None, None, None, NEW_KEY, SAME_REQUEST])
conditions = st.sampled_from(CONDITIONS)


def choices_of(operation: str, **strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[Choice]:
    drawn = st.fixed_dictionaries({"number": numbers, **strategies})
    return drawn.map(lambda values: Choice(operation, **values))


CHANGES = st.one_of(
    choices_of("createTask", body=bodies("title"), key=keys),
    choices_of("getTask", condition=conditions),
    choices_of(
        "replaceTask",
        number=numbers | st.just(MAX_NUMBER),
        condition=conditions,
        body=bodies("title", "description", "completed"),
        only_create=st.sampled_from([False, False, False, True]),
    ),
    choices_of("updateTask", condition=conditions, body=patches),
    choices_of("updateTask", condition=conditions, body=patches),
    choices_of("deleteTask", condition=conditions),
    choices_of("moveTask", condition=conditions, body=moves),
    choices_of("moveTask", condition=conditions, body=moves),
    choices_of("createList", body=names, key=keys),
    choices_of("getList", condition=conditions),
    choices_of(
        "replaceList",
        number=numbers | st.just(MAX_NUMBER),
        condition=conditions,
        body=names,
        only_create=st.sampled_from([False, True]),
    ),
    choices_of("updateList", condition=conditions, body=names | st.just({})),
    choices_of("deleteList", condition=conditions),
    choices_of(
        "moveList", condition=conditions, body=st.fixed_dictionaries({"after_id": references})
    ),
)


# Numbers of existing tasks, not only of parents.
FOCUS = st.integers(MAX_EXISTING // 2 + 1, MAX_EXISTING - 1)
REFERENCES = {"list_id", "parent_id", "after_id"}
# One rule, because Hypothesis leaves out several rules of each run.
STEPS = st.one_of(
    st.tuples(st.just("change"), users, st.lists(CHANGES, min_size=1, max_size=3)),
    st.tuples(st.just("change"), users, st.lists(CHANGES, min_size=1, max_size=3)),
    st.tuples(st.just("race"), st.lists(CHANGES, min_size=2, max_size=3), st.none()),
    st.tuples(st.just("race"), st.lists(CHANGES, min_size=2, max_size=3), FOCUS),
    st.tuples(st.just("race"), st.lists(CHANGES, min_size=2, max_size=3), FOCUS),
    st.tuples(st.just("walk"), users, st.lists(queries, min_size=1, max_size=3)),
    st.tuples(
        st.just("reuse_a_cursor"),
        numbers,
        st.sampled_from([1, 2, 3]),
        users,
        st.sampled_from(
            [{}, {"q": "other"}, {"sort": "updated_at", "order": "asc"}, {"list_id": "none"}]
        ),
    ),
    st.tuples(st.just("read_lists_and_labels"), users, st.sampled_from([1, 2])),
    st.tuples(st.just("make_instants_equal"), users),
    st.tuples(
        st.just("move_into_a_small_gap"),
        users,
        st.one_of(choices_of("moveTask"), choices_of("moveTask"), choices_of("moveList")),
        references,
    ),
)


class StoredCursor(NamedTuple):
    """A cursor of tasks, its query and the sort key of the task before it."""

    user: str
    query: JSON
    cursor: str
    key: tuple[Any, ...]


class FastContractClient(ContractClient):
    """A contract client that compiles each schema once."""

    contract = CHECK


class Service:
    """Replicas of the application on PostgreSQL, with a synchronous interface.

    The replicas receive the requests in turn.
    """

    def __init__(self, settings: Settings, database_url: str, replicas: int = 1) -> None:
        # With a factory, the runner does not replace the event loop of pytest.
        self.runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.stack = AsyncExitStack()
        self.failures: list[AssertionError] = []  # of all runs of the state machine
        self.steps = 0
        self.settings = settings
        clients, self.connection = self.runner.run(self._open(settings, database_url, replicas))
        self._clients = cycle(clients)

    async def _open(
        self, settings: Settings, database_url: str, replicas: int
    ) -> tuple[list[httpx.AsyncClient], asyncpg.Connection]:
        clients: list[httpx.AsyncClient] = []
        for _ in range(replicas):
            app = await self.stack.enter_async_context(running(create_app(settings)))
            clients.append(await self.stack.enter_async_context(FastContractClient(app)))
        connection = await connect(database_url)
        self.stack.push_async_callback(connection.close)
        return clients, connection

    def read(self, path: str, params: JSON | None = None, **options: Any) -> httpx.Response:
        return self.runner.run(self.get(path, params, **options))

    async def get(self, path: str, params: JSON | None = None, **options: Any) -> httpx.Response:
        return await next(self._clients).get(path, params=params, **options)

    def send(self, requests: Sequence[Request]) -> list[Response]:
        """Send requests concurrently."""
        return self.runner.run(self._send(requests))

    async def _send(self, requests: Sequence[Request]) -> list[Response]:
        return await asyncio.gather(*map(self.send_one, requests))

    async def send_one(self, request: Request) -> Response:
        received = await next(self._clients).request(
            request.method, request.path, headers=request.headers, json=request.body
        )
        body = received.json() if received.content else None
        return Response(received.status_code, dict(received.headers), body)

    def execute(self, statement: str, *values: object) -> None:
        self.runner.run(self.connection.execute(statement, *values))

    def fetch(self, query: str, *values: object) -> list[asyncpg.Record]:
        return self.runner.run(self.connection.fetch(query, *values))

    def integrity_errors(self) -> list[str]:
        return self.runner.run(integrity_errors(self.connection))

    def close(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()


class Machine(RuleBasedStateMachine):
    """Resolves the requests of several users: `model` has the resources that exist."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        if service.failures:  # Hypothesis repeats the run, but a race may not fail again
            raise service.failures[0]
        self.service = service
        # Hypothesis repeats a failing run, which must start from the same state.
        service.execute("TRUNCATE tasks, lists, idempotency_keys, users, tombstones")
        self.model = Model.of(USERS)
        self.ids: dict[str, list[UUID]] = {TASKS: [*CHOSEN], LISTS: [*CHOSEN]}

    def teardown(self) -> None:
        """Record the failure of a step. Hypothesis calls this while the exception is handled."""
        error = sys.exc_info()[1]
        if isinstance(error, AssertionError):
            self.service.failures.append(error)

    def _remember_ids(self) -> None:
        for kind, by_user in self.model.resources.items():
            known = set(self.ids[kind])
            self.ids[kind] += [it for ids in by_user.values() for it in ids if it not in known]

    def _resolve(self, user: str, choice: Choice) -> Request:
        operation, number, condition, body, only_create, key = choice
        known = self.model.keys.get((user, f"key-{number % KEYS}"))
        if key == SAME_REQUEST and known is not None:
            return Request(known[0], user, body=known[1], key=f"key-{number % KEYS}")
        kind = Request(operation, user).kind
        id_ = None if operation.startswith("create") else self._id(kind, user, number)
        tag = self._tag(kind, user, id_, condition)
        is_read = operation.startswith("get")
        return Request(
            operation,
            user,
            id_,
            None if body is None else self._resolve_body(operation, user, id_, body),
            if_match=None if is_read else tag,
            if_none_match=tag if is_read else "*" if only_create else None,
            key=None if key is None else f"key-{number % KEYS}",
        )

    def _id(self, kind: str, user: str, number: int) -> UUID:
        """Choose an ID: mostly of the user, else of another user, of a deleted resource or new."""
        own = list(self.model.resources[kind][user])
        if number <= MAX_EXISTING and own:
            return own[number % len(own)]
        if number == MAX_NUMBER:
            return CHOSEN[len(own) % len(CHOSEN)]
        return self.ids[kind][-1 - (number + len(own)) % len(self.ids[kind])]

    def _resolve_body(self, operation: str, user: str, id_: UUID | None, body: JSON) -> JSON:
        resolved = dict(body)
        if body.get("list_id") is not None:
            resolved["list_id"] = str(self._reference(LISTS, user, body["list_id"]))
        if body.get("parent_id") is not None:
            resolved["parent_id"] = str(self._parent(user, body["parent_id"]))
        if body.get("after_id") is not None:
            resolved["after_id"] = str(self._after(operation, user, id_, resolved))
        return resolved

    def _reference(self, kind: str, user: str, number: int) -> UUID:
        return UNKNOWN_ID if number == MAX_NUMBER else self._id(kind, user, number)

    def _parent(self, user: str, number: int) -> UUID:
        """Choose a task, which is mostly not a subtask."""
        tasks = self.model.tasks(user).items()
        parents = [id_ for id_, task in tasks if task["parent_id"] is None]
        is_valid = parents and number < MAX_EXISTING // 2
        return parents[number % len(parents)] if is_valid else self._reference(TASKS, user, number)

    def _after(self, operation: str, user: str, id_: UUID | None, body: JSON) -> UUID:
        """Choose a task or list, which is mostly in the place to which a request moves."""
        request = Request(operation, user, id_, body)
        is_unknown = self.model.find(request) is None
        place = Place() if is_unknown or request.kind == LISTS else self.model.place_after(request)
        siblings = self.model.siblings(request.kind, user, place)
        is_sibling = siblings and body["after_id"] <= MAX_EXISTING
        return (
            UUID(siblings[body["after_id"] % len(siblings)]["id"])
            if is_sibling
            else self._reference(request.kind, user, body["after_id"])
        )

    def _tag(self, kind: str, user: str, id_: UUID | None, condition: str) -> str | None:
        if id_ is None or condition == "none":
            return None
        stored = self.model.resources[kind][user].get(id_)
        etag = UNKNOWN_ETAG if stored is None else stored["etag"]
        former = [it for it in self.model.etags.get((kind, user, id_), []) if it != etag]
        return {
            "current": etag,
            "weak": f"W/{etag}",
            "listed": f'"other" ,{etag}',
            "stale": (former or [UNKNOWN_ETAG])[-1],
            "any": "*",
        }[condition]


class Users(Machine):
    """Several users and their clients."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self.cursors: list[StoredCursor] = []

    @initialize(
        lists=st.lists(names, min_size=3, max_size=3),
        tasks=st.lists(bodies("title"), min_size=8, max_size=8),
    )
    def begin(self, lists: list[JSON], tasks: list[JSON]) -> None:
        for user, body in zip([0, 0, 1], lists, strict=True):
            self._run(USERS[user], Choice("createList", 0, body=body))
        for user, body in zip([0, 0, 0, 0, 0, 1, 1, 2], tasks, strict=True):
            self._run(USERS[user], Choice("createTask", 0, body=body))

    # --- steps -----------------------------------------------------------------------------------

    @rule(step=STEPS)
    def take(self, step: tuple[Any, ...]) -> None:
        name, *arguments = step
        getattr(self, name)(*arguments)

    def change(self, user: int, choices: list[Choice]) -> None:
        """Send several requests one after the other."""
        for choice in choices:
            self._run(USERS[user], choice)
        self._check_all(USERS[user])

    def race(self, choices: list[Choice], focus: int | None) -> None:
        """Send several requests concurrently. Some order of them must explain the result."""
        user = USERS[0]
        focused = choices if focus is None else [focus_on(choice, focus) for choice in choices]
        requests = [self._resolve(user, choice) for choice in focused]
        responses = self.service.send(requests)
        candidates = list(self._outcomes(list(zip(requests, responses, strict=True))))
        require(candidates, f"no order explains {responses} to {requests}")
        stored = self._read_all(user)
        self.model = next((it for it in candidates if _all(it, user) == stored), candidates[0])
        require(_all(self.model, user) == stored, f"{stored} after {responses} to {requests}")
        self._remember_ids()

    def walk(self, user: int, drawn: list[JSON]) -> None:
        """Read all pages of some queries."""
        owner = USERS[user]
        for query in drawn:
            resolved = self._resolve_query(owner, query)
            self._walk(owner, resolved)
            self._count(owner, resolved)

    def reuse_a_cursor(self, number: int, limit: int, user: int, other: JSON) -> None:
        """Follow a cursor after the changes since, and send it with another query."""
        for stored in self.cursors[number : number + 1]:
            query = stored.query | {"limit": limit}
            is_later = gt if query["order"] == "asc" else lt
            sort = query.get("sort", "created_at")
            tasks = self._select(stored.user, query)
            rest = [task for task in tasks if is_later(sort_key(task, sort), stored.key)]
            self._page(stored.user, query, stored.cursor, rest)
            query = stored.query | other
            for _ in range((USERS[user], query) != (stored.user, stored.query)):
                params = {**query, "cursor": stored.cursor}
                response = self.service.read(_tasks_of(USERS[user]), params)
                require(response.status_code == 400, f"{response.status_code}")
                require(response.json()["type"] == "/problems/invalid-cursor", response.text)

    def read_lists_and_labels(self, user: int, limit: int) -> None:
        owner = USERS[user]
        self._walk_lists(owner, limit)
        open_tasks = [it for it in self.model.tasks(owner).values() if not it["completed"]]
        used = [label for task in open_tasks for label in task["labels"]]
        counts = [{"label": it, "open_tasks": used.count(it)} for it in sorted(set(used))]
        response = self.service.read(f"/api/v1/users/{owner}/labels")
        require(response.json() == {"items": counts, "is_capped": False}, response.text)

    def make_instants_equal(self, user: int) -> None:
        """Set all timestamps to one value, so that only the IDs define the order."""
        owner = USERS[user]
        tasks = self.model.tasks(owner)
        if tasks:
            first = min((task["created_at"] for task in tasks.values()), key=at)
            last = max((task["updated_at"] for task in tasks.values()), key=at)
            self.service.execute(
                "UPDATE tasks SET created_at = $2, updated_at = $3 WHERE user_id = $1",
                owner,
                at(first),
                at(last),
            )
            # A task that was never moved has the position of its creation.
            positions = {task["id"]: task["position"] for task in self._read_all(owner)[TASKS]}
            for id_, task in tasks.items():
                tasks[id_] = task | {
                    "created_at": first,
                    "updated_at": last,
                    "position": positions[str(id_)],
                }

    def move_into_a_small_gap(self, user: int, choice: Choice, after: int | None) -> None:
        """Give the siblings of a resource adjacent positions, and move it between two of them."""
        owner = USERS[user]
        request = self._resolve(owner, choice._replace(body={"after_id": None}))
        moved = self.model.find(request)
        place = Place() if moved is None or request.kind == LISTS else place_of(moved)
        siblings = self.model.siblings(request.kind, owner, place, without=request.id)
        if moved is None or not siblings:
            return
        self._set_positions(request.kind, owner, siblings, "05" * 31)
        after_id = None if after is None else siblings[after % len(siblings)]["id"]
        request = request._replace(body={"after_id": after_id})
        [response] = self.service.send([request])
        found = {each["id"]: each for each in self._read_all(owner)[request.kind]}
        self.model.respaced(request, [found[sibling["id"]] for sibling in siblings])
        self.model.apply(request, response)
        # No other move finds a small gap, so it must not change its neighbors.
        siblings = self.model.siblings(request.kind, owner, place)
        self._set_positions(request.kind, owner, siblings, "05")

    def _set_positions(self, kind: str, user: str, siblings: list[JSON], prefix: str) -> None:
        for number, sibling in enumerate(siblings):
            id_, position = UUID(sibling["id"]), f"{prefix}{number:02}"
            self.model.resources[kind][user][id_] = sibling | {"position": position}
            self.service.execute(
                f"UPDATE {kind} SET position = $3 WHERE user_id = $1 AND id = $2",  # noqa: S608
                user,
                id_,
                position,
            )

    @invariant()
    def is_consistent(self) -> None:
        errors = self.service.integrity_errors()
        require(not errors, f"{errors}")
        counts = "SELECT user_id, count(*) FROM {} GROUP BY user_id"
        for kind, by_user in self.model.resources.items():
            rows = self.service.fetch(counts.format(kind))
            expected = {user: len(stored) for user, stored in by_user.items() if stored}
            require(dict(map(tuple, rows)) == expected, f"{rows} instead of {expected}")

    # --- requests --------------------------------------------------------------------------------

    def _run(self, user: str, choice: Choice) -> None:
        request = self._resolve(user, choice)
        [response] = self.service.send([request])
        self.model.apply(request, response)
        self._remember_ids()

    def _check_all(self, user: str) -> None:
        stored, expected = self._read_all(user), _all(self.model, user)
        require(stored == expected, f"{stored} instead of {expected}")

    def _outcomes(self, exchanges: list[tuple[Request, Response]]) -> Iterator[Model]:
        """Yield the states after the orders that explain all responses."""
        for order in permutations(exchanges):
            model = self.model.copy()
            try:
                for request, response in order:
                    model.apply(request, response, is_race=True)
            except Mismatch:
                continue
            yield model

    # --- pages -----------------------------------------------------------------------------------

    def _resolve_query(self, user: str, query: JSON) -> JSON:
        resolved = dict(query)
        tasks = list(self.model.tasks(user).values())
        for name, kind in (("list_id", LISTS), ("parent_id", TASKS)):
            if name in query:
                number = query[name]
                resolved[name] = "none" if number is None else str(self._id(kind, user, number))
        for name in INSTANTS:
            if name in query:
                field, number = query[name]
                resolved[name] = tasks[number % len(tasks)][field] if tasks else LONG_AGO
        return resolved

    def _select(self, user: str, query: JSON) -> list[JSON]:
        """Return all tasks of a query in their order."""
        sort = query.get("sort", "created_at")
        tasks = [task for task in self.model.tasks(user).values() if is_wanted(task, query)]
        is_reverse = query["order"] == "desc"
        return sorted(tasks, key=lambda task: sort_key(task, sort), reverse=is_reverse)

    def _walk(self, user: str, query: JSON) -> None:
        rest = self._select(user, query)
        cursor = self._page(user, query, None, rest)
        while cursor is not None:
            rest = rest[query["limit"] :]
            cursor = self._page(user, query, cursor, rest)

    def _page(self, user: str, query: JSON, cursor: str | None, rest: list[JSON]) -> str | None:
        """Request a page, compare it with the start of `rest`, and store its cursor."""
        params = query | ({} if cursor is None else {"cursor": cursor})
        page = self._compare(_tasks_of(user), params, rest)
        follow: str | None = page["next_cursor"]
        if follow is not None:
            sort = query.get("sort", "created_at")
            is_long = sort not in {"created_at", "updated_at"}
            require(len(follow) <= 132 if is_long else len(follow) == 56, follow)
            key = sort_key(page["items"][-1], sort)
            self.cursors = [*self.cursors, StoredCursor(user, query, follow, key)][-MAX_CURSORS:]
        return follow

    def _compare(self, path: str, params: JSON, rest: list[JSON]) -> JSON:
        response = self.service.read(path, params)
        require(response.status_code == 200, response.text)
        page: JSON = response.json()
        expected = rest[: params["limit"]]
        require(page["items"] == expected, f"{params}: {page['items']} instead of {expected}")
        has_more = len(rest) > params["limit"]
        require((page["next_cursor"] is not None) == has_more, f"{params}: {page}, then {rest[1:]}")
        return page

    def _count(self, user: str, query: JSON) -> None:
        params = {name: query[name] for name in query if name in filters}
        response = self.service.read(f"{_tasks_of(user)}/count", params)
        expected = {"count": len(self._select(user, query)), "is_capped": False}
        require(response.json() == expected, f"{response.text} instead of {expected}")

    def _walk_lists(self, user: str, limit: int) -> None:
        rest = self.model.siblings(LISTS, user, Place())
        params: JSON = {"limit": limit}
        page = self._compare(_lists_of(user), params, rest)
        while page["next_cursor"] is not None:
            rest = rest[limit:]
            params["cursor"] = page["next_cursor"]
            page = self._compare(_lists_of(user), params, rest)

    def _read_all(self, user: str) -> dict[str, list[JSON]]:
        pages = {
            TASKS: self.service.read(_tasks_of(user), {"limit": 200}),
            LISTS: self.service.read(_lists_of(user), {"limit": 200}),
        }
        for page in pages.values():
            require(page.status_code == 200, page.text)
        return {kind: _by_id(page.json()["items"]) for kind, page in pages.items()}


def focus_on(choice: Choice, focus: int) -> Choice:
    """Choose among two tasks and two lists only, so that the requests of a race conflict."""
    body = {
        name: focus + value % 2 if name in REFERENCES and value is not None else value
        for name, value in (choice.body or {}).items()
    }
    number = focus + choice.number % 2
    return choice._replace(number=number, body=None if choice.body is None else body)


def _tasks_of(user: str) -> str:
    return f"/api/v1/users/{user}/tasks"


def _lists_of(user: str) -> str:
    return f"/api/v1/users/{user}/lists"


def _by_id(resources: Iterable[JSON]) -> list[JSON]:
    return sorted(resources, key=lambda each: str(each["id"]))


def _all(model: Model, user: str) -> dict[str, list[JSON]]:
    return {kind: _by_id(by_user[user].values()) for kind, by_user in model.resources.items()}


def explore(service: Service, machine: type[Machine] = Users, *, examples: int, steps: int) -> None:
    """Run a machine with deterministic steps."""
    run_state_machine_as_test(
        lambda: machine(service),  # type: ignore[arg-type]  # it accepts any callable
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
