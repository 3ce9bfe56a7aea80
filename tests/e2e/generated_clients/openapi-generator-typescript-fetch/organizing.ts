import { absent, due, fail, holds, step, unixTime, url, user } from "../scenario";
import type { DueType, Same } from "../scenario";
import { Configuration, ListsApi, ProblemFromJSON, ResponseError, TasksApi } from "./generated";
import type { Due, ListTasksRequest, Problem, Task, TaskCreate } from "./generated";

holds<Same<Due, DueType>>(); // the date is a string because of config.yaml
holds<Same<Task["dueAt"], Date | null>>();
holds<Same<Task["labels"], Set<string>>>();

const configuration = new Configuration({ basePath: url });
const api = new TasksApi(configuration);
const lists = new ListsApi(configuration);

async function problemOf(promise: Promise<unknown>): Promise<Problem> {
  try {
    return fail(await promise);
  } catch (error) {
    if (!(error instanceof ResponseError)) throw error;
    return ProblemFromJSON(await error.response.json());
  }
}

const list = await lists.createListRaw({ userId: user, taskListCreate: { name: "Groceries" } });
const { id: listId, name } = await list.value();
step("list", { status: list.raw.status, name });

const labels = new Set(["shop", "errands"]); // an array of different items is a Set
const create = async (taskCreate: TaskCreate) => {
  const created = await api.createTaskRaw({ userId: user, taskCreate });
  return { status: created.raw.status, ...(await created.value()) };
};
const milk = await create({ title: "Milk", listId, priority: "high", due, labels });
step("create", {
  status: milk.status,
  listed: milk.listId === listId,
  priority: milk.priority,
  due: [milk.due?.date, milk.due?.time, milk.due?.timezone],
  due_at: unixTime(milk.dueAt),
  labels: [...milk.labels],
});

const eggs = await create({ title: "Eggs", listId });
const oat = await create({ title: "Oat milk", parentId: milk.id });
step("subtask", {
  status: oat.status,
  parent: oat.parentId === milk.id,
  listed: oat.listId !== null,
  due: oat.due,
});

const moved = await api.moveTaskRaw({
  userId: user,
  taskId: eggs.id,
  taskMove: { afterId: null },
  ifMatch: eggs.etag,
});
const titles = async (query: Omit<ListTasksRequest, "userId">) => {
  const page = await api.listTasks({ userId: user, listId, ...query });
  return page.items.map((each) => each.title);
};
step("move", {
  status: moved.raw.status,
  titles: await titles({ sort: "position", order: "asc" }),
});
step("filter", {
  titles: await titles({ labels: "errands", priority: "high,urgent", dueBefore: "2026-11-25" }),
});

const count = await api.countTasks({ userId: user, listId });
step("count", { count: count.count, capped: count.isCapped });

const used = await api.listLabels({ userId: user });
step("labels", {
  labels: used.items.map((each) => [each.label, each.openTasks]),
  capped: used.isCapped,
});

const lost = api.createTask({ userId: user, taskCreate: { title: "Lost", listId: absent } });
const reference = await problemOf(lost);
step("reference", {
  status: reference.status,
  type: reference.type,
  pointer: reference.errors[0]?.pointer,
});

const filled = await problemOf(lists.deleteList({ userId: user, listId }));
step("not empty", { status: filled.status, type: filled.type });

const cleared = await api.updateTaskRaw({
  userId: user,
  taskId: milk.id,
  taskPatch: { due: null, labels: new Set() },
});
const after = await cleared.value();
step("clear", {
  status: cleared.raw.status,
  priority: after.priority,
  due: after.due,
  labels: [...after.labels],
});
