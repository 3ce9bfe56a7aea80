"""A state machine of clients that keep copies of tasks and lists through `listChanges` only.

After each step, the database is read by SQL: no response has a revision. While no other request is
sent, these rows determine the next page of every client.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from app.db.migrations import renew_epochs
from app.http.etags import format_etag
from tests.integration.state_machine.copies import (
    BEGINNING,
    Client,
    Collection,
    Key,
    Position,
    Read,
    Stored,
    is_expired,
    key_of,
)
from tests.integration.state_machine.machine import (
    CHANGES,
    FOCUS,
    MAX_NUMBER,
    REFERENCES,
    TEXTS,
    Choice,
    Machine,
    Service,
    choices_of,
    focus_on,
    keys,
    labels,
    numbers,
    places,
    references,
    with_place,
)
from tests.integration.state_machine.model import (
    JSON,
    LISTS,
    TASKS,
    Place,
    Request,
    Response,
    place_of,
    require,
)

ALICE, BOB = "alice", "bob"
OWNERS = [ALICE, BOB]
# The user and the limit of each client. Small limits make walks of many pages.
CLIENTS = ((ALICE, 1), (ALICE, 2), (ALICE, 3), (ALICE, 200), (BOB, 2))
MAX_PAGES = 500
MOVE_ATTEMPTS = 2  # in a race; each may respace
RECOVERY_ATTEMPTS = 50
HELD_SECONDS = 0.005
COLLECTIONS = ("tasks", "tasks/count", "labels", "lists")
# In the order of their foreign keys.
TABLES = ("lists", "tasks", "users", "tombstones", "idempotency_keys")
# What a race waits for. The writers then continue at the same moment, or their connections end in
# the middle of a statement or of a transaction.
HOLDS = {
    "nothing": "SELECT",
    "the lock of the user": "SELECT pg_advisory_xact_lock(hashtextextended('alice', 0))",
    "the revision": "SELECT FROM users WHERE user_id = 'alice' FOR UPDATE",
    "tombstones": "LOCK TABLE tombstones IN SHARE MODE",
}
TERMINATE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'tasks-api'
"""
READ_ROWS = """
    SELECT user_id, revision, id, kind, etag, is_deleted FROM (
      SELECT user_id, revision, id, 1 AS kind, etag, false AS is_deleted FROM tasks
      UNION ALL SELECT user_id, revision, id, 0, etag, false FROM lists
      UNION ALL SELECT user_id, revision, id, kind, NULL, true FROM tombstones
    ) AS all_rows
"""
READ_USERS = """
    SELECT user_id, epoch, revision,
      (SELECT count(*) FROM idempotency_keys WHERE idempotency_keys.user_id = users.user_id)
    FROM users
"""
# Rows from before the migration: tasks and lists with the same IDs, all with revision 0.
INSERT_OLD_ROWS = """
    INSERT INTO {table} (user_id, id, {column}, created_at, updated_at, etag)
    SELECT 'alice', lpad(number::text, 32, '0')::uuid, 'old', now(), now(), gen_random_uuid()
    FROM generate_series(10, 12) AS number
"""
AGE_TOMBSTONES = """
    UPDATE tombstones SET deleted_at = now() - interval '31 days'
    WHERE user_id = $1 AND revision % $2 = 0
"""
SET_POSITIONS = """
    WITH revised AS (
      UPDATE users SET revision = revision + 1 WHERE user_id = $1 RETURNING revision
    )
    UPDATE {table} SET position = new.position, etag = gen_random_uuid(),
      revision = revised.revision
    FROM revised, unnest($2::uuid[], $3::text[]) AS new (id, position)
    WHERE {table}.user_id = $1 AND {table}.id = new.id
"""
# A generated column cannot be restored.
READ_COLUMNS = """
    SELECT attrelid::regclass::text, string_agg(quote_ident(attname), ', ')
    FROM pg_attribute
    WHERE attrelid::regclass::text = ANY ($1) AND attnum > 0
      AND NOT attisdropped AND attgenerated = ''
    GROUP BY attrelid
"""
BACK_UP = "SELECT coalesce(jsonb_agg(to_jsonb({table})), '[]')::text FROM {table}"
RESTORE = """
    INSERT INTO {table} ({columns})
    SELECT {columns} FROM jsonb_populate_recordset(NULL::{table}, $1::jsonb)
"""


# --- steps ---------------------------------------------------------------------------------------


def _with_id(body: JSON, number: int | None) -> JSON:
    return body if number is None else {**body, "id": number}


titles = st.sampled_from(TEXTS)
optional: dict[str, st.SearchStrategy[Any]] = {
    "completed": st.booleans(),
    "labels": labels,
    "list_id": references,
    "parent_id": references,
}
creates = st.builds(
    _with_id,
    st.builds(with_place, st.fixed_dictionaries({"title": titles}, optional=optional), places),
    references,
)
updates = st.builds(
    _with_id,
    st.builds(with_place, st.fixed_dictionaries({}, optional=optional | {"title": titles}), places),
    numbers,
)
deletes = st.fixed_dictionaries({"id": numbers})
BATCHES = choices_of(
    "changeTasks",
    condition=st.sampled_from(["none", "none", "current", "stale"]),
    body=st.fixed_dictionaries(
        {
            "create": st.lists(creates, max_size=3),
            "update": st.lists(updates, max_size=3),
            "delete": st.lists(deletes, max_size=3),
        }
    ),
    key=keys,
)
DELETES = st.one_of(choices_of("deleteTask"), choices_of("deleteTask"), choices_of("deleteList"))
WRITES = st.one_of(CHANGES, CHANGES, BATCHES)
owners = st.sampled_from([ALICE, ALICE, ALICE, BOB])
clients = st.integers(0, len(CLIENTS) - 1)
RACES = st.tuples(
    st.just("race"),
    st.lists(WRITES, min_size=2, max_size=5),
    st.none() | FOCUS,
    st.lists(clients, max_size=4),
    st.sampled_from(list(HOLDS)),
)
REMOVALS = st.tuples(
    st.just("remove_tombstones"), owners, st.integers(1, 3), st.lists(DELETES, max_size=3)
)
STEPS = st.one_of(
    st.tuples(st.just("change"), owners, st.lists(WRITES, min_size=1, max_size=3)),
    st.tuples(st.just("change"), owners, st.lists(WRITES, min_size=1, max_size=3)),
    st.tuples(st.just("change"), owners, st.lists(BATCHES, min_size=1, max_size=2)),
    RACES,
    RACES,
    RACES,
    st.tuples(
        st.just("crash"),
        st.lists(WRITES, min_size=1, max_size=4),
        st.lists(clients, max_size=2),
        st.sampled_from(list(HOLDS)),
    ),
    st.tuples(st.just("follow"), clients, st.integers(1, 3)),
    st.tuples(st.just("follow"), clients, st.integers(1, 3)),
    st.tuples(st.just("walk"), clients),
    st.tuples(st.just("walk"), clients),
    st.tuples(st.just("go_back"), clients, numbers),
    st.tuples(st.just("repeat"), owners, numbers),
    REMOVALS,
    REMOVALS,
    st.tuples(st.just("erase"), owners, st.integers(1, 5), st.lists(WRITES, max_size=4)),
    st.tuples(st.just("back_up_or_restore"), st.booleans()),
    st.tuples(
        st.just("move_into_a_small_gap"),
        owners,
        st.one_of(choices_of("moveTask"), choices_of("moveList")),
        numbers,
    ),
    st.tuples(st.just("read_collections"), owners),
    st.tuples(st.just("read_collections"), owners),
)


class Copies(Machine):
    """Clients with copies, and requests that change what they copy."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self.clients = [Client(user, limit) for user, limit in CLIENTS]
        self.stored = {user: Stored() for user in OWNERS}
        # The highest revision of a tombstone that was removed since the epoch began.
        self.removed = dict.fromkeys(OWNERS, 0)
        self.collections: dict[str, Collection] = {}
        self.backup: dict[str, str] = {}

    @initialize(bodies=st.lists(creates, min_size=4, max_size=4))
    def begin(self, bodies: list[JSON]) -> None:
        for table, column in (("tasks", "title"), ("lists", "name")):
            self.service.execute(INSERT_OLD_ROWS.format(table=table, column=column))
        self._refresh()
        for user, body in zip([ALICE, ALICE, ALICE, BOB], bodies, strict=True):
            self.change(user, [Choice("changeTasks", 0, body={"create": [body]})])

    def teardown(self) -> None:
        """Walk with each client."""
        super().teardown()
        if sys.exc_info()[1] is None:
            try:
                for number in range(len(self.clients)):
                    self.walk(number)
            except AssertionError as error:
                self.service.failures.append(error)
                raise

    @rule(step=STEPS)
    def take(self, step: tuple[Any, ...]) -> None:
        self.service.steps += 1
        name, *arguments = step
        getattr(self, name)(*arguments)

    def change(self, user: str, choices: list[Choice]) -> None:
        """Send several requests one after the other."""
        for choice in choices:
            self._run(self._resolve_any(user, choice))

    def repeat(self, user: str, number: int) -> None:
        """Send the first request of an idempotency key again."""
        known = [(key, it) for (owner, key), it in self.model.keys.items() if owner == user]
        for key, (operation, body, _) in known[number % max(len(known), 1) :][:1]:
            self._run(Request(operation, user, body=body, key=key))

    def race(self, choices: list[Choice], focus: int | None, readers: list[int], hold: str) -> None:
        """Send several requests concurrently, while clients follow the feed."""
        focused = choices if focus is None else [_focus(choice, focus) for choice in choices]
        self._race([self._resolve_any(ALICE, choice) for choice in focused], readers, hold)

    def crash(self, choices: list[Choice], readers: list[int], hold: str) -> None:
        """Terminate all connections of the service, while it changes tasks and lists."""
        requests = [self._resolve_any(ALICE, choice) for choice in choices]
        self._race(requests, readers, hold, is_crash=True)

    def follow(self, number: int, pages: int) -> None:
        """Read some pages. The client continues later, in the middle of the walk."""
        for _ in range(pages):
            self._page(self.clients[number])

    def walk(self, number: int) -> None:
        """Read all pages. The copy then equals the database."""
        pages = 1
        while self._page(self.clients[number]):
            pages += 1
            require(pages < MAX_PAGES, "the walk does not end")

    def go_back(self, number: int, earlier: int) -> None:
        """Continue with an earlier token and its copy."""
        client = self.clients[number]
        client.now = client.earlier[earlier % len(client.earlier)]

    def remove_tombstones(self, user: str, divisor: int, deletes: list[Choice]) -> None:
        """Make tombstones old enough for their removal by a delete."""
        self.service.execute(AGE_TOMBSTONES, user, divisor)
        self.change(user, deletes)

    def erase(self, user: str, requests: int, choices: list[Choice]) -> None:
        """Erase a user, or a part of the tasks and lists, also next to other requests."""
        if user == ALICE and choices:
            others = [self._resolve_any(user, choice) for choice in choices]
            self._race([*others, Request("deleteUser", user)], [0, 1], "the lock of the user")
        for _ in range(requests):
            before = self.stored[user]
            [response] = self.service.send([Request("deleteUser", user)])
            self._refresh()
            after = self.stored[user]
            require(response.status in {202, 204}, f"{response}")
            is_erased = after == Stored()
            require(is_erased == (response.status == 204), f"{response.status}: {after}")
            is_renewed = before.epoch is None or after.epoch != before.epoch
            require(is_erased or is_renewed, "the epoch is unchanged")

    def back_up_or_restore(self, is_restore: bool) -> None:  # noqa: FBT001
        """Store all tables, or restore them with new epochs."""
        if not is_restore or not self.backup:
            queries = {table: BACK_UP.format(table=table) for table in TABLES}
            self.backup = {it: self.service.fetch(query)[0][0] for it, query in queries.items()}
            return
        self.service.execute(f"TRUNCATE {', '.join(TABLES)}")
        columns = dict(map(tuple, self.service.fetch(READ_COLUMNS, TABLES)))
        for table, rows in self.backup.items():
            self.service.execute(RESTORE.format(table=table, columns=columns[table]), rows)
        config = self.service.settings.database_config()
        self.service.runner.run(asyncio.to_thread(renew_epochs, config))
        self._refresh()

    def move_into_a_small_gap(self, user: str, choice: Choice, after: int) -> None:
        """Give the siblings of a task or list adjacent positions, and move it between two."""
        request = self._resolve(user, choice._replace(body={"after_id": None}))
        moved = self.model.find(request)
        place = Place() if moved is None or request.kind == LISTS else place_of(moved)
        siblings = self.model.siblings(request.kind, user, place, without=request.id)
        if moved is None or not siblings or self.stored[user].epoch is None:
            return
        ids = [UUID(sibling["id"]) for sibling in siblings]
        positions = [f"{'05' * 31}{number:02}" for number in range(len(siblings))]
        self.service.execute(SET_POSITIONS.format(table=request.kind), user, ids, positions)
        self._refresh()
        before = self.stored[user]
        request = request._replace(body={"after_id": str(ids[after % len(ids)])})
        [response] = self.service.send([request])
        self._refresh()
        require(response.status == 200, f"{response}")
        self._check_changes(before, user, [(request, response)], attempts=1)

    def read_collections(self, user: str) -> None:
        """Read each collection with its last entity tag."""
        for name in COLLECTIONS:
            path = f"/api/v1/users/{user}/{name}"
            before = self.collections.get(path)
            sent = {} if before is None else {"If-None-Match": before.etag}
            response = self.service.read(path, headers=sent)
            if before is not None and response.status_code == 304:
                current = self.service.read(path).json()
                require(current == before.body, f"304 for {before.body} instead of {current}")
                stored = self.stored[user]
                is_same = before.stored is None or before.stored == stored
                require(is_same and stored.epoch, f"304 for {before.stored} instead of {stored}")
                continue
            require(response.status_code == 200, f"{response.status_code}")
            etag = response.headers["etag"]
            is_new = self.stored[user].epoch is None or etag not in sent.values()
            require(is_new, f"200 for the current tag {etag}")
            self.collections[path] = Collection(etag, response.json(), self.stored[user])

    @invariant()
    def revisions_are_not_above_that_of_the_user(self) -> None:
        for user, stored in self.stored.items():
            positions = [*stored.tombstones, *(position for position, _ in stored.rows.values())]
            highest = max((position.revision for position in positions), default=0)
            require(highest <= stored.revision, f"{highest} of {user}: {stored}")

    # --- requests --------------------------------------------------------------------------------

    def _run(self, request: Request) -> None:
        before = self.stored[request.user]
        [response] = self.service.send([request])
        self._refresh()
        self._check_changes(before, request.user, [(request, response)], attempts=1)

    def _resolve_any(self, user: str, choice: Choice) -> Request:
        request = self._resolve(user, choice._replace(body=None) if _is_batch(choice) else choice)
        if not _is_batch(choice) or request.body is not None:  # the first request of a key again
            return request
        body = choice.body or {}
        used: set[str] = set()
        batch: JSON = {"create": [], "update": [], "delete": []}
        for name in batch:
            for change in body.get(name, []):
                resolved = self._resolve_change(user, name, change, choice)
                # Mostly one change of each task.
                if resolved.get("id") not in used or choice.number == MAX_NUMBER:
                    batch[name].append(resolved)
                    used |= {resolved["id"]} if "id" in resolved else set()
        key = request.key if _has_changes(batch) else None  # so each new key takes a revision
        return Request("changeTasks", user, body=batch, key=key)

    def _resolve_change(self, user: str, name: str, change: JSON, choice: Choice) -> JSON:
        resolved = self._resolve_body("createTask", user, None, change)
        if name == "create":
            if "id" in change:
                resolved["id"] = str(self._new_id(user, change["id"]))
            return resolved
        id_ = self._id(TASKS, user, change["id"])
        tag = self._tag(TASKS, user, id_, choice.condition)
        return resolved | {"id": str(id_)} | ({} if tag is None else {"if_match": tag})

    def _new_id(self, user: str, number: int) -> UUID:
        """Choose an ID for a new task: that of a deleted one, if there is any."""
        stored = self.stored[user]
        deleted = sorted({it.key for it in stored.tombstones} - stored.rows.keys())
        free = [id_ for kind, id_ in deleted if kind == "task"]
        return free[number % len(free)] if free else self._id(TASKS, user, MAX_NUMBER)

    def _race(
        self, requests: list[Request], readers: list[int], hold: str, *, is_crash: bool = False
    ) -> None:
        before, removed = dict(self.stored), dict(self.removed)
        chosen = [self.clients[number] for number in dict.fromkeys(readers)]
        responses, reads = self.service.runner.run(
            self._send_all(requests, chosen, hold, is_crash=is_crash)
        )
        if is_crash:
            self._recover()
        self._refresh()
        exchanges = list(zip(requests, responses, strict=True))
        self._check_changes(
            before[ALICE], ALICE, exchanges, attempts=MOVE_ATTEMPTS, is_crash=is_crash
        )
        for user, since, status, is_first in reads:
            may_expire = is_expired(since, user, self.stored[user], self.removed[user])
            if is_first and is_expired(since, user, before[user], removed[user]):
                allowed = {410}
            else:
                allowed = {200, 410} if may_expire else {200}
            require(status in allowed | ({503} if is_crash else set()), f"{status} for {since}")

    async def _send_all(
        self, requests: list[Request], readers: list[Client], hold: str, *, is_crash: bool
    ) -> tuple[list[Response], list[Read]]:
        """Send requests, and pages of clients, while a lock is held."""
        async with self._held(HOLDS[hold]):
            sent = [asyncio.create_task(self.service.send_one(request)) for request in requests]
            pages = [asyncio.create_task(self._follow(client)) for client in readers]
            collection = asyncio.create_task(self._read_collection())
            if is_crash or hold != "nothing":
                await asyncio.sleep(HELD_SECONDS)
            if is_crash:
                await self.service.connection.execute(TERMINATE)
        reads = [read for client_reads in await asyncio.gather(*pages) for read in client_reads]
        responses = await asyncio.gather(*sent)
        await collection
        return responses, reads

    @asynccontextmanager
    async def _held(self, statement: str) -> AsyncIterator[None]:
        async with self.service.connection.transaction():
            await self.service.connection.execute(statement)
            yield

    async def _follow(self, client: Client) -> list[Read]:
        """Read three pages of a client."""
        reads = []
        for number in range(3):
            since = client.now.since
            response = await self.service.get(client.path, client.params)
            reads.append(Read(client.user, since, response.status_code, number == 0))
            if response.status_code == 200:
                client.receive(response.json(), None)
            elif response.status_code == 410:
                client.restart()
        return reads

    async def _read_collection(self) -> None:
        path = f"/api/v1/users/{ALICE}/tasks"
        response = await self.service.get(path)
        if response.status_code == 200:
            self.collections[path] = Collection(response.headers["etag"], response.json(), None)

    def _recover(self) -> None:
        """Wait until the service has replaced its connections."""
        successes = 0
        for _ in range(RECOVERY_ATTEMPTS):
            is_ready = self.service.read(f"/api/v1/users/{ALICE}/tasks").status_code == 200
            successes = successes + 1 if is_ready else 0
            if successes == 2 * len(COLLECTIONS):
                return
        require(successes, "the service does not recover")

    # --- checks ----------------------------------------------------------------------------------

    def _page(self, client: Client) -> bool:
        """Read and check a page. Return whether there are more."""
        stored = self.stored[client.user]
        must_restart = is_expired(client.now.since, client.user, stored, self.removed[client.user])
        response = self.service.read(client.path, client.params)
        if must_restart:
            require(response.status_code == 410, f"{response.status_code} for an expired token")
            client.restart()
            return True
        require(response.status_code == 200, response.text)
        if stored.epoch is None and stored.rows:  # the feed creates the epoch
            self._refresh()
            stored = self.stored[client.user]
        page = response.json()
        client.receive(page, self._check_page(client, page))
        if not page["has_more"]:
            contents = self._contents(client.user)
            require(client.now.copy == contents, f"{client.now.copy} instead of {contents}")
        return bool(page["has_more"])

    def _check_page(self, client: Client, page: JSON) -> Position | None:
        """Compare a page with the database, and return the position after it."""
        stored, last = self.stored[client.user], client.now.last
        items = page["items"]
        if last is not None:
            rest = stored.items_after(last)
            expected = [(position.key, version) for position, version in rest[: client.limit]]
            found = [key_of(item) for item in items]
            require(found == expected, f"{found} instead of {expected}")
            require(page["has_more"] == (len(rest) > client.limit), f"{page}, then {rest}")
            if page["has_more"]:
                return rest[client.limit - 1][0]
        if page["has_more"]:
            return None
        return BEGINNING if stored.epoch is None else stored.end

    def _check_changes(
        self,
        before: Stored,
        user: str,
        exchanges: Sequence[tuple[Request, Response]],
        *,
        attempts: int,
        is_crash: bool = False,
    ) -> None:
        """Check that each acknowledged change has taken one revision, and stored it."""
        after = self.stored[user]
        unknown = 0
        for request, response in exchanges:
            is_known = response.status not in {400, 410, 500, 503}
            require(is_known or is_crash, f"{response} to {request}")
            require(response.status != 500, f"{response} to {request}")
            unknown += response.status == 503
            if request.key is not None and response.status < 400:
                first = request.operation, request.body or {}, response.body
                self.model.keys[user, request.key] = first
        if any(request.operation == "deleteUser" for request, _ in exchanges):
            return
        taken = after.revision - before.revision
        least = sum(map(_is_change, exchanges)) + after.keys - before.keys
        moves = sum(request.operation == "moveTask" for request, _ in exchanges)
        most = least + moves * attempts + unknown
        require(least <= taken <= most, f"{taken} revisions for {exchanges}")
        for key, row in after.rows.items():
            is_new = before.revision < row[0].revision
            require(row == before.rows.get(key) or is_new, f"{row} after {before.revision}")
        left = {it.key for it in after.tombstones if it.revision > before.revision}
        for key in before.rows.keys() - after.rows.keys():
            require(key in left, f"no tombstone of {key}")

    def _refresh(self) -> None:
        """Read the database."""
        stored = {user: Stored() for user in OWNERS}
        for user, epoch, revision, number in self.service.fetch(READ_USERS):
            stored[user].epoch, stored[user].revision, stored[user].keys = epoch, revision, number
        for user, revision, id_, kind, etag, is_deleted in self.service.fetch(READ_ROWS):
            position = Position(revision, id_, kind)
            if is_deleted:
                stored[user].tombstones.add(position)
            else:
                stored[user].rows[position.key] = position, format_etag(etag)
        for user in OWNERS:
            before, after = self.stored[user], stored[user]
            gone = [it.revision for it in before.tombstones - after.tombstones]
            is_same_epoch = before.epoch == after.epoch
            self.removed[user] = max([self.removed[user], *gone]) if is_same_epoch else 0
            if before.rows != after.rows:
                self._reload(user, after)
        self.stored = stored

    def _reload(self, user: str, stored: Stored) -> None:
        """Read the tasks and lists of a user."""
        for kind in (TASKS, LISTS):
            resources = self._read_all(f"/api/v1/users/{user}/{kind}")
            self.model.resources[kind][user] = {UUID(it["id"]): it for it in resources}
            for resource in resources:
                etags = self.model.etags.setdefault((kind, user, UUID(resource["id"])), [])
                etags += [resource["etag"]] if resource["etag"] not in etags else []
        found = {key: resource["etag"] for key, resource in self._contents(user).items()}
        expected = {key: etag for key, (_, etag) in stored.rows.items()}
        require(found == expected, f"{found} instead of {expected}")
        self._remember_ids()

    def _read_all(self, path: str) -> list[JSON]:
        params: JSON = {"limit": 200}
        page = self.service.read(path, params).json()
        items: list[JSON] = page["items"]
        while page["next_cursor"] is not None:
            page = self.service.read(path, params | {"cursor": page["next_cursor"]}).json()
            items += page["items"]
        return items

    def _contents(self, user: str) -> dict[Key, JSON]:
        resources = (("list", self.model.lists(user)), ("task", self.model.tasks(user)))
        return {(kind, id_): it for kind, by_id in resources for id_, it in by_id.items()}


def _is_batch(choice: Choice) -> bool:
    return choice.operation == "changeTasks"


def _is_change(exchange: tuple[Request, Response]) -> bool:
    """Return whether a request without a key has changed something."""
    request, response = exchange
    if request.verb == "get" or request.key is not None or response.status >= 400:
        return False
    return request.body is None or _has_changes(request.body)


def _has_changes(body: JSON) -> bool:
    """Return whether a patch or a batch changes something."""
    if "update" not in body:
        return body != {}
    updates = [change for change in body["update"] if change.keys() - {"id", "if_match"}]
    return bool(body["create"] or updates or body["delete"])


def _focus(choice: Choice, focus: int) -> Choice:
    """Choose among two tasks and two lists only, so that the requests of a race conflict."""
    if not _is_batch(choice):
        return focus_on(choice, focus)
    body = choice.body or {}
    return choice._replace(
        body={name: [_focus_change(it, focus) for it in body[name]] for name in body}
    )


def _focus_change(change: JSON, focus: int) -> JSON:
    chosen = {name for name in ("id", *REFERENCES) if change.get(name) is not None}
    return {name: focus + value % 2 if name in chosen else value for name, value in change.items()}
