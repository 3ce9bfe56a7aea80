import { absent, due, fail, holds, step, unixTime, user } from "../scenario";
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
} from "./generated/tasks";
import type { ListTasksParams, Problem, Task, TaskCreate, TaskPatch } from "./generated/tasks.schemas";

holds<Same<Task, OrganizedTask>>();
holds<Same<TaskPatch, OrganizedPatch>>();

const list = await createList(user, { name: "Groceries" });
if (list.status !== 201) fail(list.data);
const list_id = list.data.id;
step("list", { status: list.status, name: list.data.name });

const create = async (body: TaskCreate) => {
  const created = await createTask(user, body);
  if (created.status !== 201) fail(created.data);
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

const moved = await moveTask(user, eggs.id, { after_id: null }, { "If-Match": eggs.etag });
const titles = async (query: ListTasksParams) => {
  const page = await listTasks(user, { list_id, ...query });
  if (page.status !== 200) fail(page.data);
  return page.data.items.map((each) => each.title);
};
step("move", { status: moved.status, titles: await titles({ sort: "position", order: "asc" }) });
step("filter", {
  titles: await titles({ labels: "errands", priority: "high,urgent", due_before: "2026-11-25" }),
});

const count = await countTasks(user, { list_id });
if (count.status !== 200) fail(count.data);
step("count", { count: count.data.count, capped: count.data.is_capped });

const labels = await listLabels(user);
if (labels.status !== 200) fail(labels.data);
step("labels", {
  labels: labels.data.items.map((each) => [each.label, each.open_tasks]),
  capped: labels.data.is_capped,
});

const lost = await createTask(user, { title: "Lost", list_id: absent });
if (lost.status !== 409) fail(lost.data);
const reference: Problem = lost.data;
step("reference", {
  status: reference.status,
  type: reference.type,
  pointer: reference.errors[0]?.pointer,
});

const deleted = await deleteList(user, list_id);
if (deleted.status !== 409) fail(deleted.data);
const filled: Problem = deleted.data;
step("not empty", { status: filled.status, type: filled.type });

const cleared = await updateTask(user, milk.id, { due: null, labels: [] });
if (cleared.status !== 200) fail(cleared.data);
step("clear", {
  status: cleared.status,
  priority: cleared.data.priority,
  due: cleared.data.due,
  labels: cleared.data.labels,
});
