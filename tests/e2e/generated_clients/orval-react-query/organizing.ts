import { MutationObserver, QueryClient } from "@tanstack/react-query";

import { absent, due, fail, holds, step, unixTime, user } from "../scenario";
import type { OrganizedPatch, OrganizedTask, Same } from "../scenario";
import {
  getCountTasksQueryOptions,
  getCreateListMutationOptions,
  getCreateTaskMutationOptions,
  getDeleteListMutationOptions,
  getListLabelsQueryOptions,
  getListTasksQueryOptions,
  getMoveTaskMutationOptions,
  getUpdateTaskMutationOptions,
} from "./generated/tasks";
import type { CreateTaskMutationError, DeleteListMutationError } from "./generated/tasks";
import type { ListTasksParams, Task, TaskCreate, TaskPatch } from "./generated/tasks.schemas";

holds<Same<Task, OrganizedTask>>();
holds<Same<TaskPatch, OrganizedPatch>>();

const client = new QueryClient({ defaultOptions: { queries: { retry: false } } });
const creation = new MutationObserver(client, getCreateTaskMutationOptions());
const deletion = new MutationObserver(client, getDeleteListMutationOptions());

async function errorOf<E extends Error>(promise: Promise<unknown>): Promise<E> {
  try {
    return fail(await promise);
  } catch (error) {
    return error as E; // JavaScript has no typed throw; the hooks declare `error` the same way
  }
}

const listing = new MutationObserver(client, getCreateListMutationOptions());
const list = await listing.mutate({ userId: user, data: { name: "Groceries" } });
const list_id = list.data.id;
step("list", { status: list.status, name: list.data.name });

const create = async (data: TaskCreate) => {
  const created = await creation.mutate({ userId: user, data });
  return { status: created.status, ...created.data };
};
const milk = await create({ title: "Milk", list_id, priority: "high", due, labels: ["shop", "errands"] });
step("create", {
  status: milk.status,
  listed: milk.list_id === list_id,
  priority: milk.priority,
  due: [milk.due?.date, milk.due?.time, milk.due?.timezone],
  due_at: unixTime(milk.due_at),
  labels: milk.labels,
});

const eggs = await create({ title: "Eggs", list_id });
const oat = await create({ title: "Oat milk", parent_id: milk.id });
step("subtask", {
  status: oat.status,
  parent: oat.parent_id === milk.id,
  listed: oat.list_id !== null,
  due: oat.due,
});

const moving = new MutationObserver(client, getMoveTaskMutationOptions());
const moved = await moving.mutate({
  userId: user,
  taskId: eggs.id,
  data: { after_id: null },
  headers: { "If-Match": eggs.etag },
});
const titles = async (query: ListTasksParams) => {
  const page = await client.fetchQuery(getListTasksQueryOptions(user, { list_id, ...query }));
  return page.data.items.map((each) => each.title);
};
step("move", { status: moved.status, titles: await titles({ sort: "position", order: "asc" }) });
step("filter", {
  titles: await titles({ labels: "errands", priority: "high,urgent", due_before: "2026-11-25" }),
});

const count = await client.fetchQuery(getCountTasksQueryOptions(user, { list_id }));
step("count", { count: count.data.count, capped: count.data.is_capped });

const labels = await client.fetchQuery(getListLabelsQueryOptions(user));
step("labels", {
  labels: labels.data.items.map((each) => [each.label, each.open_tasks]),
  capped: labels.data.is_capped,
});

const lost = creation.mutate({ userId: user, data: { title: "Lost", list_id: absent } });
const reference = (await errorOf<CreateTaskMutationError>(lost)).info ?? fail("no problem");
step("reference", {
  status: reference.status,
  type: reference.type,
  pointer: reference.errors[0]?.pointer,
});

const deleted = deletion.mutate({ userId: user, listId: list_id });
const filled = (await errorOf<DeleteListMutationError>(deleted)).info ?? fail("no problem");
step("not empty", { status: filled.status, type: filled.type });

const updating = new MutationObserver(client, getUpdateTaskMutationOptions());
const cleared = await updating.mutate({
  userId: user,
  taskId: milk.id,
  data: { due: null, labels: [] },
});
step("clear", {
  status: cleared.status,
  priority: cleared.data.priority,
  due: cleared.data.due,
  labels: cleared.data.labels,
});
client.clear();
