import { completedAt, createdAt, eggsId, fail, holds, step, summary, unixTime, user, walk } from "../scenario";
import type { Same } from "../scenario";
import { changeTasks, createList, createTask, deleteUser, exportUser, listChanges } from "./generated/tasks";
import type { Change, ListChangesParams, Problem, Task, TaskBatch, TaskList } from "./generated/tasks.schemas";

holds<Same<Change["task"], Task | null>>();
holds<Same<Change["list"], TaskList | null>>();

await createList(user, { name: "Groceries" });
const create = async (title: string) => {
  const created = await createTask(user, { title });
  if (created.status !== 201) fail(created.data);
  return created.data;
};
const milk = await create("Milk");
const tea = await create("Tea");

const read = async (query: ListChangesParams) => {
  const page = await listChanges(user, query);
  if (page.status !== 200) fail(page.data);
  return page.data;
};
const first = await walk(read);
step("first walk", { pages: first.pages, items: first.items });

const change = async (body: TaskBatch) => {
  const changed = await changeTasks(user, body);
  if (changed.status !== 200) fail(changed.data);
  return { status: changed.status, ...changed.data };
};
const batch = await change({
  create: [{ title: "Eggs", id: eggsId }],
  update: [{ id: milk.id, if_match: milk.etag, completed: true }],
  delete: [{ id: tea.id }],
});
step("batch", {
  status: batch.status,
  created: batch.created.map((each) => each.title),
  updated: batch.updated.map((each) => [each.title, each.completed]),
  deleted: batch.deleted.map((id) => id === tea.id),
});

const later = await walk(read, first.since);
step("later walk", { pages: later.pages, items: later.items });

const stale = await changeTasks(user, {
  update: [{ id: milk.id, if_match: milk.etag, title: "Too late" }],
});
if (stale.status !== 412) fail(stale.data);
const conflict: Problem = stale.data;
step("conflict", {
  status: conflict.status,
  type: conflict.type,
  pointer: conflict.errors[0]?.pointer,
});

const exported = await exportUser(user);
if (exported.status !== 200) fail(exported.data);
// The media type makes it a stream.
step("export", summary(await exported.stream.text()));

const erased = await deleteUser(user);
step("erase", { status: erased.status });

const gone = await listChanges(user, { since: later.since });
if (gone.status !== 410) fail(gone.data);
step("expired", { status: gone.data.status, type: gone.data.type });

const restored = await change({
  create: [
    { title: "Eggs", id: eggsId, created_at: createdAt, completed: true, completed_at: completedAt },
    { title: "Milk" },
  ],
});
step("restore", {
  status: restored.status,
  created_at: unixTime(restored.created[0]?.created_at),
  completed_at: unixTime(restored.created[0]?.completed_at),
});
