import { absent, fail, holds, step, url, user } from "../scenario";
import type { PatchType, ProblemType, Same } from "../scenario";
import { Configuration, ProblemFromJSON, ResponseError, TasksApi } from "./generated";
import type { Problem, Task, TaskPatch } from "./generated";

// This generator renames properties to camel case and converts date-times to Date.
interface DatedTask {
  id: string;
  userId: string;
  title: string;
  description: string | null;
  completed: boolean;
  completedAt: Date | null;
  createdAt: Date;
  updatedAt: Date;
  etag: string;
}
interface TracedProblem extends Omit<ProblemType, "trace_id"> {
  traceId: string | null;
}
holds<Same<Pick<Task, keyof DatedTask>, DatedTask>>();
holds<Same<Pick<TaskPatch, keyof PatchType>, PatchType>>();
holds<Same<Problem, TracedProblem>>();

const api = new TasksApi(new Configuration({ basePath: url }));

async function problemOf(promise: Promise<unknown>): Promise<Problem> {
  try {
    return fail(await promise);
  } catch (error) {
    if (!(error instanceof ResponseError)) throw error;
    return ProblemFromJSON(await error.response.json());
  }
}

const created = await api.createTaskRaw({
  userId: user,
  taskCreate: { title: "Buy milk", description: "Two litres" },
});
const task = await created.value();
const target = { userId: user, taskId: task.id };
step("create", {
  status: created.raw.status,
  title: task.title,
  description: task.description,
  completed: task.completed,
  completed_at: task.completedAt,
});

const response = await api.getTaskRaw(target);
const read = await response.value();
step("read", { status: response.raw.status, title: read.title, same: read.etag === task.etag });

for (const title of ["Task 2", "Task 3", "Task 4", "Task 5"]) {
  await api.createTask({ userId: user, taskCreate: { title } });
}
const titles: string[] = [];
let pages = 0;
let cursor: string | null = null;
do {
  const page = await api.listTasks({
    userId: user,
    limit: 2,
    sort: "created_at",
    order: "asc",
    ...(cursor && { cursor }),
  });
  titles.push(...page.items.map((each) => each.title));
  cursor = page.nextCursor;
  pages += 1;
} while (cursor);
step("list", { pages, titles });

const change = async (taskPatch: TaskPatch) => {
  const changed = await api.updateTaskRaw({ ...target, taskPatch });
  return { status: changed.raw.status, ...(await changed.value()) };
};
const set = await change({ description: "Three litres" });
step("set", { status: set.status, title: set.title, description: set.description });
const left = await change({ completed: true });
step("leave", {
  status: left.status,
  description: left.description,
  completed: left.completed,
  dated: left.completedAt instanceof Date,
});
const cleared = await change({ description: null });
step("clear", {
  status: cleared.status,
  title: cleared.title,
  description: cleared.description,
  completed: cleared.completed,
});

const stale = await problemOf(
  api.updateTask({ ...target, ifMatch: task.etag, taskPatch: { title: "Too late" } }),
);
step("conflict", { status: stale.status, type: stale.type, errors: stale.errors.length });

const invalid = await problemOf(api.createTask({ userId: user, taskCreate: { title: "" } }));
step("fault", { status: invalid.status, type: invalid.type, pointer: invalid.errors[0]?.pointer });

const missing = await problemOf(api.getTask({ userId: user, taskId: absent }));
step("missing", { status: missing.status, type: missing.type });

const deleted = await api.deleteTaskRaw({ ...target, ifMatch: cleared.etag });
step("delete", { status: deleted.raw.status });
