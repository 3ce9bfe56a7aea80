import { absent, fail, holds, step, user } from "../scenario";
import type { PatchType, ProblemType, Same, TaskType } from "../scenario";
import { createTask, deleteTask, getTask, listTasks, updateTask } from "./generated/tasks";
import type { Problem, Task, TaskPatch } from "./generated/tasks.schemas";

holds<Same<Pick<Task, keyof TaskType>, TaskType>>();
holds<Same<Pick<TaskPatch, keyof PatchType>, PatchType>>();
holds<Same<Problem, ProblemType>>();

const created = await createTask(user, { title: "Buy milk", description: "Two litres" });
if (created.status !== 201) fail(created.data);
const task: Task = created.data;
step("create", {
  status: created.status,
  title: task.title,
  description: task.description,
  completed: task.completed,
  completed_at: task.completed_at,
});

const read = await getTask(user, task.id);
if (read.status !== 200) fail(read.data);
step("read", { status: read.status, title: read.data.title, same: read.data.etag === task.etag });

for (const title of ["Task 2", "Task 3", "Task 4", "Task 5"]) {
  await createTask(user, { title });
}
const titles: string[] = [];
let pages = 0;
let cursor: string | null = null;
do {
  const page: Awaited<ReturnType<typeof listTasks>> = await listTasks(user, {
    limit: 2,
    sort: "created_at",
    order: "asc",
    ...(cursor && { cursor }),
  });
  if (page.status !== 200) fail(page.data);
  titles.push(...page.data.items.map((each) => each.title));
  cursor = page.data.next_cursor;
  pages += 1;
} while (cursor);
step("list", { pages, titles });

const change = async (patch: TaskPatch) => {
  const changed = await updateTask(user, task.id, patch);
  if (changed.status !== 200) fail(changed.data);
  return { status: changed.status, ...changed.data };
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

const conflict = await updateTask(user, task.id, { title: "Too late" }, { "If-Match": task.etag });
if (conflict.status !== 412) fail(conflict.data);
const stale: Problem = conflict.data;
step("conflict", { status: stale.status, type: stale.type, errors: stale.errors.length });

const rejected = await createTask(user, { title: "" });
if (rejected.status !== 422) fail(rejected.data);
const invalid: Problem = rejected.data;
step("fault", { status: invalid.status, type: invalid.type, pointer: invalid.errors[0]?.pointer });

const unknown = await getTask(user, absent);
if (unknown.status !== 404) fail(unknown.data);
const missing: Problem = unknown.data;
step("missing", { status: missing.status, type: missing.type });

const deleted = await deleteTask(user, task.id, { "If-Match": cleared.etag });
step("delete", { status: deleted.status });
