"""Strict validation of parameters on every operation, with raw requests."""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg
import pytest

from app.settings import Settings
from tests.support.client import assert_problem, tasks_of
from tests.support.live import LiveServer, serve_in_thread

pytestmark = pytest.mark.usefixtures("database")

ALICE = tasks_of("alice")
ID = "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44"
TASK = f"{ALICE}/{ID}"
JSON = "Content-Type: application/json"
BODY = b'{"title": "Buy milk", "description": null, "completed": false}'
OPERATIONS = {
    "listTasks": ("GET", ALICE),
    "createTask": ("POST", ALICE),
    "getTask": ("GET", TASK),
    "replaceTask": ("PUT", TASK),
    "updateTask": ("PATCH", TASK),
    "deleteTask": ("DELETE", TASK),
    "getLiveness": ("GET", "/livez"),
    "getReadiness": ("GET", "/readyz"),
    "getContractYaml": ("GET", "/openapi.yaml"),
    "getContractJson": ("GET", "/openapi.json"),
}
CONDITIONAL = [
    ("GET", TASK, "If-None-Match"),
    ("PUT", TASK, "If-Match"),
    ("PATCH", TASK, "If-Match"),
    ("DELETE", TASK, "If-Match"),
    ("GET", "/openapi.yaml", "If-None-Match"),
    ("GET", "/openapi.json", "If-None-Match"),
]


@pytest.fixture(scope="module")
def live(settings: Settings) -> Iterator[LiveServer]:
    with serve_in_thread(settings) as server:
        yield server


def short(value: str) -> str:
    return f"{ascii(value)[:24]}.{len(value)}"


@pytest.mark.requirement("FR-021")
@pytest.mark.parametrize(
    ("method", "path", "header", "error"),
    [
        ("GET", f"{ALICE}?sort={'x' * 3000}", "Accept: */*", "sort"),
        ("PUT", TASK, f'If-None-Match: "{"x" * 3000}"', "If-None-Match"),
    ],
)
def test_rejection_of_a_long_value_is_bounded(
    live: LiveServer, method: str, path: str, header: str, error: str
) -> None:
    response = live.call(method, path, JSON, header, body=BODY)
    problem = assert_problem(response, 400, "invalid-parameter", error)
    assert len(problem["errors"][0]["detail"]) < 100


# --- on every operation --------------------------------------------------------------------------


@pytest.mark.requirement("FR-021")
@pytest.mark.parametrize(("method", "path"), OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize(
    ("query", "errors"),
    [
        ("x=1", ["x"]),
        ("x=1&y=2", ["x", "y"]),
        ("x=1&x=2", ["x", "x"]),
        ("LIMIT=1", ["LIMIT"]),
        ("user_id=bob", ["user_id"]),
        ("x", ["x"]),
        ("x=%zz", ["x"]),
        ("x=%", ["x"]),
        ("x=%f", ["x"]),
        ("x=%ff", ["x"]),
        ("x=%c0%80", ["x"]),
        ("x=%ed%a0%80", ["x"]),
        ("x=%zz&y=%ff&z=1", ["x", "y", "z"]),
    ],
)
def test_unknown_or_malformed_query_parameter_is_400(
    live: LiveServer, method: str, path: str, query: str, errors: list[str]
) -> None:
    response = live.call(method, f"{path}?{query}", JSON, body=BODY)
    assert_problem(response, 400, "invalid-parameter", *errors)


@pytest.mark.requirement("FR-021")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/livez", "/readyz", "/openapi.yaml", "/openapi.json", ALICE])
def test_empty_query_is_ignored(live: LiveServer, method: str, path: str) -> None:
    assert live.call(method, f"{path}?").status_code == 200


@pytest.mark.requirement("FR-021")
async def test_rejected_request_writes_nothing(
    live: LiveServer, database: asyncpg.Connection
) -> None:
    live.call("POST", f"{ALICE}?x=1", JSON, body=BODY)
    live.call("PUT", f"{TASK}?x=1", JSON, body=BODY)
    assert await database.fetchval("SELECT count(*) FROM tasks") == 0


@pytest.mark.requirement("FR-021")
def test_long_name_of_an_unknown_parameter_is_truncated(live: LiveServer) -> None:
    response = live.call("GET", f"/livez?{'x' * 500}=1")
    assert_problem(response, 400, "invalid-parameter", "x" * 128)


@pytest.mark.requirement("FR-021")
def test_at_most_100_errors_are_reported(live: LiveServer) -> None:
    response = live.call("GET", "/livez?" + "&".join(f"x{number}=1" for number in range(150)))
    assert response.status_code == 400
    assert len(response.json()["errors"]) == 100


@pytest.mark.requirement("FR-021", "FR-022")
def test_errors_of_path_query_and_headers_are_combined(live: LiveServer) -> None:
    response = live.call("PATCH", "/api/v1/users/-/tasks/1?x=1", "If-Match: a", JSON, body=b"{}")
    assert_problem(response, 400, "invalid-parameter", "user_id", "task_id", "x", "If-Match")


# --- the query of listTasks ----------------------------------------------------------------------


@pytest.mark.requirement("FR-021")
@pytest.mark.parametrize(
    "value",
    [
        "", "1.0", "1e1", "%2B5", "+5", "%205", "5%20", "0x5", "05", "00", "-0", "0", "-1", "1_0",
        "%D9%A5", "%EF%BC%95", "null", "None", "true", "five", "5;order=asc", "5,6", "5%00",
        "5%0A", "%0A5", "5%0D", "5%09", "201", "9223372036854775808", "9" * 400, "9" * 5000,
        "Infinity", "NaN", "%22%35%22", "5%2526", "5%ff", "5%zz",
    ],
    ids=short,
)  # fmt: skip
def test_invalid_limit_is_400(live: LiveServer, value: str) -> None:
    response = live.call("GET", f"{ALICE}?limit={value}")
    problem = assert_problem(response, 400, "invalid-parameter", "limit")
    assert "sys." not in problem["errors"][0]["detail"]


@pytest.mark.requirement("FR-015", "FR-021")
@pytest.mark.parametrize("value", ["1", "5", "200", "%35", "%32%30%30"])
def test_limit_in_range_is_accepted(live: LiveServer, value: str) -> None:
    assert live.call("GET", f"{ALICE}?limit={value}").status_code == 200


@pytest.mark.requirement("FR-021")
@pytest.mark.parametrize(
    "value",
    [
        "",
        "True",
        "TRUE",
        "1",
        "0",
        "yes",
        "on",
        "null",
        "t",
        "true%20",
        "+true",
        "true%0A",
        "fal%00se",
    ],
)
def test_completed_is_only_true_or_false(live: LiveServer, value: str) -> None:
    response = live.call("GET", f"{ALICE}?completed={value}")
    assert_problem(response, 400, "invalid-parameter", "completed")


@pytest.mark.requirement("FR-021")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sort", "CREATED_AT"),
        ("sort", "createdAt"),
        ("sort", "-created_at"),
        ("sort", "title"),
        ("sort", "created_at,updated_at"),
        ("sort", "created_at%0A"),
        ("sort", ""),
        ("order", "ASC"),
        ("order", "ascending"),
        ("order", "asc%0A"),
        ("order", "null"),
        ("order", ""),
    ],
)
def test_unknown_order_is_400(live: LiveServer, name: str, value: str) -> None:
    response = live.call("GET", f"{ALICE}?{name}={value}")
    assert_problem(response, 400, "invalid-parameter", name)


@pytest.mark.requirement("FR-019", "FR-021")
@pytest.mark.parametrize(
    "value",
    ["", "%00", "milk%00", "x" * 201, "%F0%9F%98%80" * 201, "%ff", "%c3", "%c0%af", "%ed%a0%80"],
    ids=short,
)
def test_invalid_search_text_is_400(live: LiveServer, value: str) -> None:
    response = live.call("GET", f"{ALICE}?q={value}")
    assert_problem(response, 400, "invalid-parameter", "q")


@pytest.mark.requirement("FR-019", "FR-021")
@pytest.mark.parametrize(
    "value",
    [
        "x" * 200,
        "%F0%9F%98%80" * 200,
        "milk%0A",
        "a=b",
        "a;b",
        "a%26b",
        "a%3Db",
        "null",
        "%2525",
        "'",
    ],
    ids=short,
)
def test_other_search_text_is_accepted(live: LiveServer, value: str) -> None:
    assert live.call("GET", f"{ALICE}?q={value}").status_code == 200


@pytest.mark.requirement("FR-019", "FR-021")
@pytest.mark.parametrize("value", ["buy+milk", "buy%20milk", "buy%2Bmilk", "milk%26buy", "%62uy"])
def test_value_is_decoded_once(live: LiveServer, value: str) -> None:
    live.call("POST", ALICE, JSON, body=b'{"title": "Buy milk"}')
    assert len(live.call("GET", f"{ALICE}?q={value}").json()["items"]) == 1


@pytest.mark.requirement("FR-019", "FR-021")
@pytest.mark.parametrize("value", ["%2562uy", "buy%252Bbread"])
def test_value_is_not_decoded_twice(live: LiveServer, value: str) -> None:
    live.call("POST", ALICE, JSON, body=b'{"title": "Buy bread"}')
    assert live.call("GET", f"{ALICE}?q={value}").json()["items"] == []


@pytest.mark.requirement("FR-021")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "5"),
        ("cursor", "A" * 56),
        ("completed", "true"),
        ("q", "milk"),
        ("created_after", "2026-01-01T00:00:00Z"),
        ("created_before", "2026-01-01T00:00:00Z"),
        ("updated_after", "2026-01-01T00:00:00Z"),
        ("updated_before", "2026-01-01T00:00:00Z"),
        ("sort", "created_at"),
        ("order", "asc"),
    ],
)
def test_repeated_parameter_is_400(live: LiveServer, name: str, value: str) -> None:
    response = live.call("GET", f"{ALICE}?{name}={value}&{name}={value}")
    assert_problem(response, 400, "invalid-parameter", name)


@pytest.mark.requirement("FR-021")
@pytest.mark.parametrize(
    ("query", "errors"),
    [
        ("limit=0&order=up&x=1", ["limit", "order", "x"]),
        ("limit=0&limit=1", ["limit", "limit"]),
        ("limit=5&%6Cimit=6", ["limit"]),
        ("limit=0&q=%ff", ["limit", "q"]),
        ("q=%zz&limit=0", ["limit", "q"]),
        ("q=%zz&x=1&sort=%00", ["q", "sort", "x"]),
        ("limit&order=up", ["limit", "order"]),
        ("a&b", ["a", "b"]),
        ("a;b=1", ["a;b"]),
        ("limit%00=5", ["limit\0"]),
        ("limit%20=5", ["limit "]),
        ("+limit=5", [" limit"]),
        ("limit[]=5", ["limit[]"]),
        ("q=a&Q=b", ["Q"]),
    ],
)
def test_all_invalid_parameters_are_reported(
    live: LiveServer, query: str, errors: list[str]
) -> None:
    response = live.call("GET", f"{ALICE}?{query}")
    assert_problem(response, 400, "invalid-parameter", *errors)


@pytest.mark.requirement("FR-021")
@pytest.mark.parametrize(
    "query", ["&", "=1", "&limit=5", "limit=5&", "limit=5&&order=asc", "?limit=5"]
)
def test_malformed_query_is_400(live: LiveServer, query: str) -> None:
    response = live.call("GET", f"{ALICE}?{query}")
    assert response.status_code == 400
    assert response.json()["type"] == "/problems/invalid-parameter"
    assert response.json()["errors"] != []


# --- the path ------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-022")
@pytest.mark.parametrize(
    "user",
    [
        "-", "-alice", ".", "..", "%2E%2E", "_alice", "@alice", "%7Calice", "+alice", ":alice",
        "alice%20", "%20alice", "alice%0A", "alice%0D%0A", "alice%00", "%00", "al%C3%A4", "%ff",
        "alice%ff", "alice%c0%80", "alice%zz", "alice%", "alice%2", "a%2Fb", "a%2fb", "a%252Fb",
        "%2F", "a%5Cb", "a;b", "a,b", "a=b", "a*", "a'b", "a%22b", "{user_id}", "a~b", "a!b",
        "%D9%A5", "x" * 129, "a%3Fb", "a%23b", "a%EF%BF%BDb", "a$b", "a%26b", "a(b)",
    ],
    ids=short,
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["", f"/{ID}"], ids=["collection", "task"])
def test_invalid_user_id_is_400(live: LiveServer, user: str, suffix: str) -> None:
    response = live.call("GET", tasks_of(user) + suffix)
    assert_problem(response, 400, "invalid-parameter", "user_id")


@pytest.mark.requirement("FR-022")
@pytest.mark.parametrize(
    "user",
    ["a", "0", "x" * 128, "a.b_c:d|e@f+g-h", "a%2Bb", "a%7Cb", "a%40b", "tasks", "users", "null"],
    ids=short,
)
def test_valid_user_id_is_accepted(live: LiveServer, user: str) -> None:
    assert live.call("GET", tasks_of(user)).status_code == 200


@pytest.mark.requirement("FR-022")
@pytest.mark.parametrize(
    "task",
    [
        "1", "null", "tasks", "not-a-uuid", ID.replace("-", ""), f"urn:uuid:{ID}", f"%7B{ID}%7D",
        f"{{{ID}}}", ID[:-1], ID + "0", f"%20{ID}", f"{ID}%20", f"{ID}%0A", f"{ID}%00", f"+{ID}",
        ID.replace("0", "g", 1), ID.replace("0", "%D9%A0", 1), ID.replace("-", "_"),
        ID.replace("-", "%E2%80%90"), f"{ID}%2F", f"%2F{ID}", f"a%2F{ID}", f"{ID}%252F",
        f"{ID}%ff", f"{ID}%zz", f"{ID};x=1", "0198c5a27-e1f-7b3a-9d55-2f6f0c1e8a44", ".", "..",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_invalid_task_id_is_400(live: LiveServer, method: str, task: str) -> None:
    response = live.call(method, f"{ALICE}/{task}", JSON, body=BODY)
    assert_problem(response, 400, "invalid-parameter", "task_id")


@pytest.mark.requirement("FR-022")
@pytest.mark.parametrize("task", [ID, ID.upper(), ID.replace("0", "%30"), ID.replace("-", "%2D")])
def test_percent_encoded_uuid_is_accepted(live: LiveServer, task: str) -> None:
    live.call("PUT", TASK, JSON, body=BODY)
    assert live.call("GET", f"{ALICE}/{task}").json()["id"] == ID


@pytest.mark.requirement("FR-022")
@pytest.mark.parametrize(
    "path",
    [
        "//livez", "/livez/", "/livez//", "//", "///", "/livez%2F", "/%2Flivez", "/livez%2f",
        "/livez/.", "/./livez", "/x/../livez", "/livez%20", "/livez%0A", "/livez%00", "/livez%ff",
        "/livez%zz", "/LIVEZ", "/Livez", "/livez;x=1", "/livez.json", "/openapi", "/openapiXyaml",
        "/openapi.yml", "/openapi.YAML", "/openapi.yaml/", "/api", "/api/v1", "/api/v1/",
        "/api/v1/users", "/api/v1/users/", "/api/v1/users/alice/", "/api/v1/users//tasks",
        f"{ALICE}/", f"{ALICE}//", f"/{ALICE}", f"{ALICE}%2F", f"{ALICE}%2F{ID}", f"{TASK}/",
        f"{TASK}//", f"{ALICE}//{ID}", f"{TASK}/x", f"{TASK}/{ID}", "/api/v1/users/a/b/tasks",
        "/api%2Fv1/users/alice/tasks", "/api/v1/users%2Falice/tasks", "/API/v1/users/alice/tasks",
        "/api/v2/users/alice/tasks", "/api/v1/users/alice/Tasks", "/api/v1/users/alice/task",
        "/docs/", "/docs/assets", "/docs/assets/", "/schema", "/metrics", "/favicon.ico",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_non_canonical_path_is_404(live: LiveServer, method: str, path: str) -> None:
    response = live.call(method, path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


# --- preconditions -------------------------------------------------------------------------------


@pytest.mark.requirement("FR-021")
@pytest.mark.parametrize(("method", "path", "header"), CONDITIONAL)
@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "tag",
        '"tag',
        'tag"',
        "'tag'",
        'w/"tag"',
        'W/ "tag"',
        "W/tag",
        "W/*",
        '"*',
        "**",
        "*, *",
        '*, "tag"',
        '"tag", *',
        '"a" "b"',
        '"a";"b"',
        '"a",',
        ',"a"',
        '"a",,"b"',
        '"a b"',
        '"a\tb"',
        '"a"b"',
        '"\xe9"',
        '"\xff"',
        '"a"\xa0,"b"',
        '\xa0"a"',
        '"' + "x" * 1023 + '"',
        '"x", ' * 300 + '"x"',
    ],
    ids=short,
)
def test_malformed_precondition_is_400(
    live: LiveServer, method: str, path: str, header: str, value: str
) -> None:
    response = live.call(method, path, f"{header}: {value}", JSON, body=BODY)
    assert_problem(response, 400, "invalid-parameter", header)


@pytest.mark.requirement("FR-021")
@pytest.mark.parametrize(("method", "path", "header"), CONDITIONAL)
@pytest.mark.parametrize("values", [('"a"', '"b"'), ('"a"', '"a"'), ("*", "*")], ids=str)
def test_repeated_precondition_is_400(
    live: LiveServer, method: str, path: str, header: str, values: tuple[str, str]
) -> None:
    headers = [
        f"{name}: {value}" for name, value in zip((header, header.lower()), values, strict=True)
    ]
    response = live.call(method, path, *headers, JSON, body=BODY)
    assert_problem(response, 400, "invalid-parameter", header)


@pytest.mark.requirement("FR-010", "FR-021")
@pytest.mark.parametrize(
    "value",
    [
        '"a"',
        '""',
        'W/"a"',
        '"a","b"',
        '"a" , W/"b"\t,\t"c"',
        '  "a"\t',
        '"!#$%&\'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~"',
        '"' + "x" * 1022 + '"',
        ", ".join(['"x"'] * 200),
    ],
    ids=short,
)
def test_valid_precondition_that_fails_is_412(live: LiveServer, value: str) -> None:
    live.call("PUT", TASK, JSON, body=BODY)
    response = live.call("PATCH", TASK, f"If-Match: {value}", JSON, body=b"{}")
    assert_problem(response, 412, "precondition-failed")


@pytest.mark.requirement("FR-013", "FR-021")
@pytest.mark.parametrize("name", ["if-none-match", "IF-NONE-MATCH", "If-None-Match"])
def test_header_names_are_case_insensitive(live: LiveServer, name: str) -> None:
    live.call("PUT", TASK, JSON, body=BODY)
    assert live.call("GET", TASK, f"{name}: *").status_code == 304
