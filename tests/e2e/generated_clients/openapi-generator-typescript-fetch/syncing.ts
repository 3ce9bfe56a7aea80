import { completedAt, createdAt, eggsId, fail, holds, step, summary, unixTime, url, user, walk } from "../scenario";
import type { Same } from "../scenario";
import {
  ChangesApi,
  Configuration,
  ListsApi,
  ProblemFromJSON,
  ResponseError,
  TasksApi,
  UsersApi,
} from "./generated";
import type { Change, Problem, Task, TaskBatch, TaskList } from "./generated";

holds<Same<Change["task"], Task | null>>();
holds<Same<Change["list"], TaskList | null>>();

const configuration = new Configuration({ basePath: url });
const api = new TasksApi(configuration);
const changes = new ChangesApi(configuration);
const users = new UsersApi(configuration);

async function problemOf(promise: Promise<unknown>): Promise<Problem> {
  try {
    return fail(await promise);
  } catch (error) {
    if (!(error instanceof ResponseError)) throw error;
    return ProblemFromJSON(await error.response.json());
  }
}

await new ListsApi(configuration).createList({ userId: user, taskListCreate: { name: "Groceries" } });
const milk = await api.createTask({ userId: user, taskCreate: { title: "Milk" } });
const tea = await api.createTask({ userId: user, taskCreate: { title: "Tea" } });

const read = async (query: { limit: number; since?: string }) => {
  const page = await changes.listChanges({ userId: user, ...query });
  return { items: page.items, next_since: page.nextSince, has_more: page.hasMore };
};
const first = await walk(read);
step("first walk", { pages: first.pages, items: first.items });

const change = async (taskBatch: TaskBatch) => {
  const changed = await api.changeTasksRaw({ userId: user, taskBatch });
  return { status: changed.raw.status, ...(await changed.value()) };
};
const batch = await change({
  create: [{ title: "Eggs", id: eggsId }],
  update: [{ id: milk.id, ifMatch: milk.etag, completed: true }],
  _delete: [{ id: tea.id }],
});
step("batch", {
  status: batch.status,
  created: batch.created.map((each) => each.title),
  updated: batch.updated.map((each) => [each.title, each.completed]),
  deleted: batch.deleted.map((id) => id === tea.id),
});

const later = await walk(read, first.since);
step("later walk", { pages: later.pages, items: later.items });

const conflict = await problemOf(
  change({ update: [{ id: milk.id, ifMatch: milk.etag, title: "Too late" }] }),
);
step("conflict", {
  status: conflict.status,
  type: conflict.type,
  pointer: conflict.errors[0]?.pointer,
});

step("export", summary(await users.exportUser({ userId: user })));

const erased = await users.deleteUserRaw({ userId: user });
step("erase", { status: erased.raw.status });

const expired = await problemOf(changes.listChanges({ userId: user, since: later.since }));
step("expired", { status: expired.status, type: expired.type });

const restored = await change({
  create: [
    {
      title: "Eggs",
      id: eggsId,
      createdAt: new Date(createdAt),
      completed: true,
      completedAt: new Date(completedAt),
    },
    { title: "Milk" },
  ],
});
step("restore", {
  status: restored.status,
  created_at: unixTime(restored.created[0]?.createdAt),
  completed_at: unixTime(restored.created[0]?.completedAt),
});
