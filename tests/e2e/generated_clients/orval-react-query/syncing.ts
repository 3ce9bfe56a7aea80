import { MutationObserver, QueryClient } from "@tanstack/react-query";

import { completedAt, createdAt, eggsId, fail, holds, step, summary, unixTime, user, walk } from "../scenario";
import type { Same } from "../scenario";
import {
  getChangeTasksMutationOptions,
  getCreateListMutationOptions,
  getCreateTaskMutationOptions,
  getDeleteUserMutationOptions,
  getExportUserQueryOptions,
  getListChangesQueryOptions,
} from "./generated/tasks";
import type { ChangeTasksMutationError, ListChangesQueryError } from "./generated/tasks";
import type { Change, ListChangesParams, Task, TaskBatch, TaskList } from "./generated/tasks.schemas";

holds<Same<Change["task"], Task | null>>();
holds<Same<Change["list"], TaskList | null>>();

const client = new QueryClient({ defaultOptions: { queries: { retry: false } } });
const creation = new MutationObserver(client, getCreateTaskMutationOptions());
const changing = new MutationObserver(client, getChangeTasksMutationOptions());

async function errorOf<E extends Error>(promise: Promise<unknown>): Promise<E> {
  try {
    return fail(await promise);
  } catch (error) {
    return error as E; // JavaScript has no typed throw; the hooks declare `error` the same way
  }
}

const listing = new MutationObserver(client, getCreateListMutationOptions());
await listing.mutate({ userId: user, data: { name: "Groceries" } });
const create = async (title: string) => (await creation.mutate({ userId: user, data: { title } })).data;
const milk = await create("Milk");
const tea = await create("Tea");

const read = async (query: ListChangesParams) =>
  (await client.fetchQuery(getListChangesQueryOptions(user, query))).data;
const first = await walk(read);
step("first walk", { pages: first.pages, items: first.items });

const change = (data: TaskBatch) => changing.mutate({ userId: user, data });
const batch = await change({
  create: [{ title: "Eggs", id: eggsId }],
  update: [{ id: milk.id, if_match: milk.etag, completed: true }],
  delete: [{ id: tea.id }],
});
step("batch", {
  status: batch.status,
  created: batch.data.created.map((each) => each.title),
  updated: batch.data.updated.map((each) => [each.title, each.completed]),
  deleted: batch.data.deleted.map((id) => id === tea.id),
});

const later = await walk(read, first.since);
step("later walk", { pages: later.pages, items: later.items });

const stale = change({ update: [{ id: milk.id, if_match: milk.etag, title: "Too late" }] });
const conflict = (await errorOf<ChangeTasksMutationError>(stale)).info ?? fail("no problem");
step("conflict", {
  status: conflict.status,
  type: conflict.type,
  pointer: conflict.errors[0]?.pointer,
});

// The media type makes it a stream.
const exported = await client.fetchQuery(getExportUserQueryOptions(user));
step("export", summary(await exported.stream.text()));

const erasing = new MutationObserver(client, getDeleteUserMutationOptions());
const erased = await erasing.mutate({ userId: user });
step("erase", { status: erased.status });

const gone = client.fetchQuery(getListChangesQueryOptions(user, { since: later.since }));
const expired = (await errorOf<ListChangesQueryError>(gone)).info ?? fail("no problem");
step("expired", { status: expired.status, type: expired.type });

const restored = await change({
  create: [
    { title: "Eggs", id: eggsId, created_at: createdAt, completed: true, completed_at: completedAt },
    { title: "Milk" },
  ],
});
step("restore", {
  status: restored.status,
  created_at: unixTime(restored.data.created[0]?.created_at),
  completed_at: unixTime(restored.data.created[0]?.completed_at),
});
client.clear();
