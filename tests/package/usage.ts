// What a project does with the package: each function is run in Node and in Chromium alike, and
// answers JSON that a test looks at.
import { ProblemError, TasksApi, ifUnchanged } from 'tasks-api-client';
import type { Fault, Problem, Task, TaskQuery } from 'tasks-api-client';

/** The addresses of the service, of one without its database, of a proxy, and of nobody. */
export type Places = { service: string; down: string; proxy: string; nobody: string };

/** A user without tasks, on a service, and how many requests were made for the user. */
function arrive(baseUrl: string) {
  const path = { user_id: crypto.randomUUID() };
  const requests: unknown[] = [];
  const api = new TasksApi({
    baseUrl,
    fetch: (input, init) => {
      requests.push(input);
      return fetch(input, init);
    },
  });
  return { api, path, requests };
}

/** An error as a program sees it; of what it reads, every type is known to the compiler. */
async function thrownBy(call: Promise<unknown>) {
  try {
    await call;
  } catch (error) {
    if (!(error instanceof Error)) return { name: error };
    if (!(error instanceof ProblemError)) return { name: error.name };
    const problem: Problem = error;
    const faults: Fault[] = error.errors;
    const waits: number | null = error.retryAfter;
    return {
      name: error.name,
      message: error.message,
      type: problem.type,
      title: problem.title,
      status: problem.status,
      detail: problem.detail,
      instance: problem.instance,
      traceId: problem.trace_id,
      requestId: error.requestId,
      errors: faults.map((fault) => fault.pointer ?? fault.parameter),
      retryAfter: waits,
      body: typeof error.body,
    };
  }
  return { name: 'nothing was thrown' };
}

async function titles(tasks: AsyncIterable<Task>) {
  const found: string[] = [];
  for await (const task of tasks) found.push(task.title);
  return found;
}

export async function everyOperation({ service }: Places) {
  const { api, path } = arrive(service);
  const createTask = await api.createTask({ path, body: { title: 'Buy milk' } });
  const created: Task = createTask.data;
  const one = { ...path, task_id: created.id };
  const getTask = await api.getTask({ path: one });
  const updateTask = await api.updateTask({ path: one, body: { completed: true } });
  const listTasks = await api.listTasks({ path, query: { completed: true } });
  const body = { title: 'Buy oat milk', description: null, completed: false };
  const chosen = { ...path, task_id: crypto.randomUUID() };
  const replaceTask = await api.replaceTask({ path: chosen, body, headers: { 'If-None-Match': '*' } });
  const deleteTask = await api.deleteTask({ path: one });
  const getLiveness = await api.getLiveness();
  const getReadiness = await api.getReadiness();
  const getContractYaml = await api.getContractYaml();
  const getContractJson = await api.getContractJson();
  const answers = {
    createTask, getTask, updateTask, listTasks, replaceTask, deleteTask,
    getLiveness, getReadiness, getContractYaml, getContractJson,
  };
  const statuses = Object.entries(answers).map(([name, { response }]) => [name, response.status]);
  return {
    statuses: Object.fromEntries(statuses),
    titles: [created.title, getTask.data.title, listTasks.data.items[0]?.title, replaceTask.data.title],
    completed: updateTask.data.completed,
    health: [getLiveness.data.status, getReadiness.data.status],
    yaml: getContractYaml.data.slice(0, 14),
    json: getContractJson.data.openapi,
  };
}

export async function headerFields({ service }: Places) {
  const { api, path } = arrive(service);
  const { data, response } = await api.createTask({ path, body: { title: 'Buy milk' } });
  return {
    isTheTag: response.headers.get('ETag') === data.etag,
    location: response.headers.get('Location')?.replace(path.user_id, 'alice').replace(data.id, '1'),
    requestId: response.headers.get('X-Request-ID'),
  };
}

export async function problems({ service }: Places) {
  const { api, path } = arrive(service);
  const { data: task } = await api.createTask({ path, body: { title: 'Buy milk' } });
  await api.updateTask({ ...ifUnchanged(task), body: { completed: true } });
  const missing = { ...path, task_id: crypto.randomUUID() };
  const wrong = { title: '', colour: 'red' };
  return {
    400: await thrownBy(api.listTasks({ path, query: { limit: 201 } })),
    404: await thrownBy(api.getTask({ path: missing })),
    412: await thrownBy(api.deleteTask(ifUnchanged(task))),
    422: await thrownBy(api.createTask({ path, body: wrong })),
  };
}

export async function returnedProblem({ service }: Places) {
  const { api, path } = arrive(service);
  const query = { limit: 0 };
  const { data, error } = await api.listTasks({ path, query, throwOnError: false });
  const problem: Problem | undefined = error;
  return { isProblemError: problem instanceof ProblemError, status: problem?.status, data: data ?? null };
}

export async function withoutDatabase({ down }: Places) {
  const { api, path } = arrive(down);
  return [await thrownBy(api.getReadiness()), await thrownBy(api.listTasks({ path }))];
}

export async function behindAProxy({ proxy }: Places) {
  const answers: Record<string, unknown> = {};
  for (const kind of ['html', 'json', 'empty', 'partial', 'date', 'nonsense']) {
    answers[kind] = await thrownBy(new TasksApi({ baseUrl: `${proxy}/${kind}` }).getLiveness());
  }
  return answers;
}

export async function withoutService({ nobody, proxy }: Places) {
  return [
    await thrownBy(new TasksApi({ baseUrl: nobody }).getLiveness()),
    await thrownBy(new TasksApi({ baseUrl: `${proxy}/cut` }).getLiveness()),
  ];
}

/** Five tasks, of which the even ones are completed. */
async function five(service: string) {
  const visit = arrive(service);
  for (const number of [1, 2, 3, 4, 5]) {
    const body = { title: `Task ${number}`, completed: number % 2 === 0 };
    await visit.api.createTask({ path: visit.path, body });
  }
  visit.requests.length = 0;
  return visit;
}

export async function pages({ service }: Places) {
  const { api, path, requests } = await five(service);
  const query: TaskQuery = { limit: 2, order: 'asc' };
  const all = await titles(api.allTasks({ path, query }));
  return { all, requests: requests.length };
}

export async function filteredPages({ service }: Places) {
  const { api, path, requests } = await five(service);
  const query = { limit: 1, completed: true, q: 'task', sort: 'updated_at' } as const;
  const done = await titles(api.allTasks({ path, query }));
  return { done, requests: requests.length };
}

export async function noPages({ service }: Places) {
  const { api, path, requests } = arrive(service);
  return { all: await titles(api.allTasks({ path })), requests: requests.length };
}

export async function leftEarly({ service }: Places) {
  const { api, path, requests } = await five(service);
  for await (const _ of api.allTasks({ path, query: { limit: 2 } })) break;
  return requests.length;
}

/** The walk is given up at the task with this number of five, in pages of two. */
async function abortedAt(number: number, service: string) {
  const { api, path, requests } = await five(service);
  const controller = new AbortController();
  const { signal } = controller;
  let seen = 0;
  const walk = async () => {
    for await (const _ of api.allTasks({ path, query: { limit: 2 }, signal })) {
      seen += 1;
      if (seen === number) controller.abort();
    }
  };
  const { name } = await thrownBy(walk());
  return { name, seen, requests: requests.length };
}

export async function aborted({ service }: Places) {
  return { inAPage: await abortedAt(1, service), betweenPages: await abortedAt(2, service) };
}

/** Aborted before there is an answer, and while its body is awaited, for a reason or for none. */
export async function abortedOnTheWay({ proxy }: Places) {
  const abortedAt = (kind: string, reason?: string) => {
    const controller = new AbortController();
    const api = new TasksApi({ baseUrl: `${proxy}/${kind}` });
    setTimeout(() => controller.abort(reason), 500);
    return thrownBy(api.getLiveness({ signal: controller.signal }));
  };
  return Promise.all([abortedAt('never'), abortedAt('stuck'), abortedAt('stuck', 'too slow')]);
}

export async function refreshed({ service }: Places) {
  const { api, path } = arrive(service);
  const { data: task } = await api.createTask({ path, body: { title: 'Buy milk' } });
  const same = await api.refresh(task);
  await api.updateTask({ ...ifUnchanged(task), body: { completed: true } });
  const changed = await api.refresh(task);
  const notModified = await thrownBy(
    api.getTask({ path: ifUnchanged(task).path, headers: { 'If-None-Match': changed.etag } }),
  );
  await api.deleteTask(ifUnchanged(changed));
  return {
    isTheSame: same === task,
    completed: [task.completed, changed.completed],
    notModified,
    gone: await thrownBy(api.refresh(changed)),
  };
}

/** What a page on an origin that is not allowed would like to do to this user. */
export async function fromAbroad({ service }: Places) {
  const api = new TasksApi({ baseUrl: service });
  const path = { user_id: 'abroad' };
  return [
    await thrownBy(api.listTasks({ path })),
    await thrownBy(api.createTask({ path, body: { title: 'Buy milk' } })),
    await thrownBy(api.getReadiness()),
  ];
}
