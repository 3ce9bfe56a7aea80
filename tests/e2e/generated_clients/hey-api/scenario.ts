import { absent, fail, holds, step, url, user } from "../scenario";
import type { PatchType, ProblemType, Same, TaskType } from "../scenario";
import { createTask, deleteTask, getTask, listTasks, updateTask } from "./generated";
import type { Problem, Task, TaskPatch } from "./generated";
import { client } from "./generated/client.gen";
import { zProblem } from "./generated/zod.gen";

holds<Same<Pick<Task, keyof TaskType>, TaskType>>();
holds<Same<Pick<TaskPatch, keyof PatchType>, PatchType>>();
holds<Same<Problem, ProblemType>>();

client.setConfig({ baseUrl: url });

const created = await createTask({
  path: { user_id: user },
  body: { title: "Buy milk", description: "Two litres" },
});
const task = created.data ?? fail(created.error);
const path = { user_id: user, task_id: task.id };
step("create", {
  status: created.response?.status,
  title: task.title,
  description: task.description,
  completed: task.completed,
  completed_at: task.completed_at,
});

const read = await getTask({ path });
step("read", {
  status: read.response?.status,
  title: read.data?.title,
  same: read.data?.etag === task.etag,
});

for (const title of ["Task 2", "Task 3", "Task 4", "Task 5"]) {
  await createTask({ path: { user_id: user }, body: { title } });
}
const titles: string[] = [];
let pages = 0;
let cursor: string | null | undefined;
do {
  const page = await listTasks({
    path: { user_id: user },
    query: { limit: 2, sort: "created_at", order: "asc", ...(cursor && { cursor }) },
  });
  titles.push(...(page.data ?? fail(page.error)).items.map((each) => each.title));
  cursor = page.data?.next_cursor;
  pages += 1;
} while (cursor);
step("list", { pages, titles });

const change = async (body: TaskPatch) => {
  const changed = await updateTask({ path, body });
  return { status: changed.response?.status, ...(changed.data ?? fail(changed.error)) };
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

const conflict = await updateTask({
  path,
  headers: { "If-Match": task.etag },
  body: { title: "Too late" },
});
// The SDK validates successful responses. Problems are only typed, so validate them here.
const stale = zProblem.parse(conflict.error ?? fail(conflict.data));
step("conflict", { status: stale.status, type: stale.type, errors: stale.errors.length });

const rejected = await createTask({ path: { user_id: user }, body: { title: "" } });
const invalid = rejected.error ?? fail(rejected.data);
step("fault", { status: invalid.status, type: invalid.type, pointer: invalid.errors[0]?.pointer });

const unknown = await getTask({ path: { ...path, task_id: absent } });
const missing = unknown.error ?? fail(unknown.data);
step("missing", { status: missing.status, type: missing.type });

const deleted = await deleteTask({ path, headers: { "If-Match": cleared.etag } });
step("delete", { status: deleted.response?.status });
