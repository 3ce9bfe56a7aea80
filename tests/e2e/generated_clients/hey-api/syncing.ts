import { completedAt, createdAt, eggsId, fail, holds, step, summary, unixTime, url, user, walk } from "../scenario";
import type { Same } from "../scenario";
import { changeTasks, createList, createTask, deleteUser, exportUser, listChanges } from "./generated";
import type { Change, Task, TaskBatch, TaskList } from "./generated";
import { client } from "./generated/client.gen";

holds<Same<Change["task"], Task | null>>();
holds<Same<Change["list"], TaskList | null>>();

client.setConfig({ baseUrl: url });
const path = { user_id: user };

await createList({ path, body: { name: "Groceries" } });
const create = async (title: string) => {
  const created = await createTask({ path, body: { title } });
  return created.data ?? fail(created.error);
};
const milk = await create("Milk");
const tea = await create("Tea");

const read = async (query: { limit: number; since?: string }) => {
  const page = await listChanges({ path, query });
  return page.data ?? fail(page.error);
};
const first = await walk(read);
step("first walk", { pages: first.pages, items: first.items });

const change = (body: TaskBatch) => changeTasks({ path, body });
const batch = await change({
  create: [{ title: "Eggs", id: eggsId }],
  update: [{ id: milk.id, if_match: milk.etag, completed: true }],
  delete: [{ id: tea.id }],
});
step("batch", {
  status: batch.response?.status,
  created: batch.data?.created.map((each) => each.title),
  updated: batch.data?.updated.map((each) => [each.title, each.completed]),
  deleted: batch.data?.deleted.map((id) => id === tea.id),
});

const later = await walk(read, first.since);
step("later walk", { pages: later.pages, items: later.items });

const stale = await change({ update: [{ id: milk.id, if_match: milk.etag, title: "Too late" }] });
const conflict = stale.error ?? fail(stale.data);
step("conflict", {
  status: conflict.status,
  type: conflict.type,
  pointer: conflict.errors[0]?.pointer,
});

// Without `parseAs`, the client returns a Blob for this media type.
const exported = await exportUser({ path, parseAs: "text" });
step("export", summary(exported.data ?? fail(exported.error)));

const erased = await deleteUser({ path });
step("erase", { status: erased.response?.status });

const gone = await listChanges({ path, query: { since: later.since } });
const expired = gone.error ?? fail(gone.data);
step("expired", { status: expired.status, type: expired.type });

const restored = await change({
  create: [
    { title: "Eggs", id: eggsId, created_at: createdAt, completed: true, completed_at: completedAt },
    { title: "Milk" },
  ],
});
const eggs = restored.data?.created[0] ?? fail(restored.error);
step("restore", {
  status: restored.response?.status,
  created_at: unixTime(eggs.created_at),
  completed_at: unixTime(eggs.completed_at),
});
