import createClient from "openapi-fetch";

import { absent, fail, holds, step, url, user } from "../scenario";
import type { PatchType, ProblemType, Same, TaskType } from "../scenario";
import type { components, paths } from "./generated/tasks";

type Schemas = components["schemas"];
holds<Same<Pick<Schemas["Task"], keyof TaskType>, TaskType>>();
holds<Same<Pick<Schemas["TaskPatch"], keyof PatchType>, PatchType>>();
holds<Same<Schemas["Problem"], ProblemType>>();

const client = createClient<paths>({ baseUrl: url });
const collection = "/api/v1/users/{user_id}/tasks";
const item = "/api/v1/users/{user_id}/tasks/{task_id}";

const created = await client.POST(collection, {
  params: { path: { user_id: user } },
  body: { title: "Buy milk", description: "Two litres" },
});
const task = created.data ?? fail(created.error);
const path = { user_id: user, task_id: task.id };
step("create", {
  status: created.response.status,
  title: task.title,
  description: task.description,
  completed: task.completed,
  completed_at: task.completed_at,
});

const read = await client.GET(item, { params: { path } });
step("read", { status: read.response.status, title: read.data?.title, same: read.data?.etag === task.etag });

for (const title of ["Task 2", "Task 3", "Task 4", "Task 5"]) {
  await client.POST(collection, { params: { path: { user_id: user } }, body: { title } });
}
const titles: string[] = [];
let pages = 0;
let cursor: string | null | undefined;
do {
  const query = { limit: 2, sort: "created_at", order: "asc", ...(cursor && { cursor }) } as const;
  const page = await client.GET(collection, { params: { path: { user_id: user }, query } });
  titles.push(...(page.data ?? fail(page.error)).items.map((each) => each.title));
  cursor = page.data?.next_cursor;
  pages += 1;
} while (cursor);
step("list", { pages, titles });

const change = async (body: PatchType) => {
  const changed = await client.PATCH(item, { params: { path }, body });
  return { status: changed.response.status, ...(changed.data ?? fail(changed.error)) };
};
const set = await change({ description: "Three litres" });
step("set", { status: set.status, title: set.title, description: set.description });
const left = await change({ completed: true });
step("leave", {
  status: left.status,
  description: left.description,
  completed: left.completed,
  dated: left.completed_at !== null,
});
const cleared = await change({ description: null });
step("clear", {
  status: cleared.status,
  title: cleared.title,
  description: cleared.description,
  completed: cleared.completed,
});

const conflict = await client.PATCH(item, {
  params: { path, header: { "If-Match": task.etag } },
  body: { title: "Too late" },
});
const stale = conflict.error ?? fail(conflict.data);
step("conflict", { status: stale.status, type: stale.type, errors: stale.errors.length });

const rejected = await client.POST(collection, {
  params: { path: { user_id: user } },
  body: { title: "" },
});
const invalid = rejected.error ?? fail(rejected.data);
step("fault", { status: invalid.status, type: invalid.type, pointer: invalid.errors[0]?.pointer });

const unknown = await client.GET(item, { params: { path: { ...path, task_id: absent } } });
const missing = unknown.error ?? fail(unknown.data);
step("missing", { status: missing.status, type: missing.type });

const deleted = await client.DELETE(item, { params: { path, header: { "If-Match": cleared.etag } } });
step("delete", { status: deleted.response.status });
