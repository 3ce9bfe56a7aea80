import { absent, due, fail, holds, step, unixTime, url, user } from "../scenario";
import type { OrganizedPatch, OrganizedTask, Same } from "../scenario";
import {
  countTasks,
  createList,
  createTask,
  deleteList,
  listLabels,
  listTasks,
  moveTask,
  updateTask,
} from "./generated";
import type { ListTasksData, Task, TaskCreate, TaskPatch } from "./generated";
import { client } from "./generated/client.gen";

holds<Same<Task, OrganizedTask>>();
holds<Same<TaskPatch, OrganizedPatch>>();

client.setConfig({ baseUrl: url });
const path = { user_id: user };

const list = await createList({ path, body: { name: "Groceries" } });
const list_id = (list.data ?? fail(list.error)).id;
step("list", { status: list.response?.status, name: list.data?.name });

const create = async (body: TaskCreate) => {
  const created = await createTask({ path, body });
  return { status: created.response?.status, ...(created.data ?? fail(created.error)) };
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

const moved = await moveTask({
  path: { ...path, task_id: eggs.id },
  headers: { "If-Match": eggs.etag },
  body: { after_id: null },
});
const titles = async (query: ListTasksData["query"]) => {
  const page = await listTasks({ path, query: { list_id, ...query } });
  return (page.data ?? fail(page.error)).items.map((each) => each.title);
};
step("move", {
  status: moved.response?.status,
  titles: await titles({ sort: "position", order: "asc" }),
});
step("filter", {
  titles: await titles({ labels: "errands", priority: "high,urgent", due_before: "2026-11-25" }),
});

const count = await countTasks({ path, query: { list_id } });
step("count", { count: count.data?.count, capped: count.data?.is_capped });

const labels = await listLabels({ path });
step("labels", {
  labels: labels.data?.items.map((each) => [each.label, each.open_tasks]),
  capped: labels.data?.is_capped,
});

const lost = await createTask({ path, body: { title: "Lost", list_id: absent } });
const reference = lost.error ?? fail(lost.data);
step("reference", {
  status: reference.status,
  type: reference.type,
  pointer: reference.errors[0]?.pointer,
});

const deleted = await deleteList({ path: { ...path, list_id } });
const filled = deleted.error ?? fail(deleted.data);
step("not empty", { status: filled.status, type: filled.type });

const cleared = await updateTask({
  path: { ...path, task_id: milk.id },
  body: { due: null, labels: [] },
});
step("clear", {
  status: cleared.response?.status,
  priority: cleared.data?.priority,
  due: cleared.data?.due,
  labels: cleared.data?.labels,
});
