import { MutationObserver, QueryClient } from "@tanstack/react-query";

import { absent, fail, holds, step, user } from "../scenario";
import type { PatchType, ProblemType, Same, TaskType } from "../scenario";
import {
  getCreateTaskMutationOptions,
  getDeleteTaskMutationOptions,
  getGetTaskQueryOptions,
  getListTasksInfiniteQueryOptions,
  getUpdateTaskMutationOptions,
} from "./generated/tasks";
import type { CreateTaskMutationError, GetTaskQueryError, UpdateTaskMutationError } from "./generated/tasks";
import type { Problem, Task, TaskPatch } from "./generated/tasks.schemas";

holds<Same<Pick<Task, keyof TaskType>, TaskType>>();
holds<Same<Pick<TaskPatch, keyof PatchType>, PatchType>>();
holds<Same<Problem, ProblemType>>();

// Without a page, pass the options of the hooks to the observers that the hooks use.
const client = new QueryClient({ defaultOptions: { queries: { retry: false } } });
const creation = new MutationObserver(client, getCreateTaskMutationOptions());
const updating = new MutationObserver(client, getUpdateTaskMutationOptions());
const deletion = new MutationObserver(client, getDeleteTaskMutationOptions());

async function errorOf<E extends Error>(promise: Promise<unknown>): Promise<E> {
  try {
    return fail(await promise);
  } catch (error) {
    return error as E; // JavaScript has no typed throw; the hooks declare `error` the same way
  }
}

const created = await creation.mutate({ userId: user, data: { title: "Buy milk", description: "Two litres" } });
const task: Task = created.data;
const target = { userId: user, taskId: task.id };
step("create", {
  status: created.status,
  title: task.title,
  description: task.description,
  completed: task.completed,
  completed_at: task.completed_at,
});

const read = await client.fetchQuery(getGetTaskQueryOptions(user, task.id));
step("read", { status: read.status, title: read.data.title, same: read.data.etag === task.etag });

for (const title of ["Task 2", "Task 3", "Task 4", "Task 5"]) {
  await creation.mutate({ userId: user, data: { title } });
}
const { pages } = await client.fetchInfiniteQuery({
  ...getListTasksInfiniteQueryOptions(user, { limit: 2, sort: "created_at", order: "asc" }),
  initialPageParam: undefined,
  getNextPageParam: (page) => page.data.next_cursor ?? undefined,
  pages: 10, // stops where there is no next page
});
step("list", {
  pages: pages.length,
  titles: pages.flatMap((page) => page.data.items.map((each) => each.title)),
});

const change = async (data: TaskPatch) => {
  const changed = await updating.mutate({ ...target, data });
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

const late = updating.mutate({ ...target, data: { title: "Too late" }, headers: { "If-Match": task.etag } });
const stale = (await errorOf<UpdateTaskMutationError>(late)).info ?? fail("no problem");
step("conflict", { status: stale.status, type: stale.type, errors: stale.errors.length });

const empty = creation.mutate({ userId: user, data: { title: "" } });
const invalid = (await errorOf<CreateTaskMutationError>(empty)).info ?? fail("no problem");
step("fault", { status: invalid.status, type: invalid.type, pointer: invalid.errors[0]?.pointer });

const unknown = client.fetchQuery(getGetTaskQueryOptions(user, absent));
const missing = (await errorOf<GetTaskQueryError>(unknown)).info ?? fail("no problem");
step("missing", { status: missing.status, type: missing.type });

const deleted = await deletion.mutate({ ...target, headers: { "If-Match": cleared.etag } });
step("delete", { status: deleted.status });
client.clear();
