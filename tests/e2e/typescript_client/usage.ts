// Uses of the package. Each function runs in Node and in Chromium, and returns JSON that a test
// checks.
import { ProblemError, TasksApi, ifUnchanged, toReplace } from 'tasks-api-client';
import type { FieldError, Problem, Task, TaskQuery } from 'tasks-api-client';

/** URLs: a service, one without a database, one with a concurrency limit of 1, a proxy, and a closed port. */
export type URLs = { service: string; down: string; narrow: string; proxy: string; nobody: string };

/** Returns a new user of a service, with a log of the user's requests. */
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

/** Returns the properties of an error. The compiler knows the type of each one. */
async function thrownBy(call: Promise<unknown>) {
  try {
    await call;
  } catch (error) {
    if (!(error instanceof Error)) return { name: error };
    if (!(error instanceof ProblemError)) return { name: error.name };
    const problem: Problem = error;
    const faults: FieldError[] = error.errors;
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
      details: faults.map((fault) => fault.detail),
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

export async function everyOperation({ service }: URLs) {
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
  const results = {
    createTask, getTask, updateTask, listTasks, replaceTask, deleteTask,
    getLiveness, getReadiness, getContractYaml, getContractJson,
  };
  const statuses = Object.entries(results).map(([name, { response }]) => [name, response.status]);
  return {
    statuses: Object.fromEntries(statuses),
    titles: [created.title, getTask.data.title, listTasks.data.items[0]?.title, replaceTask.data.title],
    completed: updateTask.data.completed,
    health: [getLiveness.data.status, getReadiness.data.status],
    yaml: getContractYaml.data.slice(0, 14),
    json: getContractJson.data.openapi,
  };
}

export async function headerFields({ service }: URLs) {
  const { api, path } = arrive(service);
  const { data, response } = await api.createTask({ path, body: { title: 'Buy milk' } });
  return {
    isTheTag: response.headers.get('ETag') === data.etag,
    location: response.headers.get('Location')?.replace(path.user_id, 'alice').replace(data.id, '1'),
    requestId: response.headers.get('X-Request-ID'),
  };
}

export async function problems({ service }: URLs) {
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

export async function returnedProblem({ service }: URLs) {
  const { api, path } = arrive(service);
  const query = { limit: 0 };
  const { data, error } = await api.listTasks({ path, query, throwOnError: false });
  const problem: Problem | undefined = error;
  return { isProblemError: problem instanceof ProblemError, status: problem?.status, data: data ?? null };
}

export async function withoutDatabase({ down }: URLs) {
  const { api, path } = arrive(down);
  return [await thrownBy(api.getReadiness()), await thrownBy(api.listTasks({ path }))];
}

export async function behindAProxy({ proxy }: URLs) {
  const results: Record<string, unknown> = {};
  for (const name of ['html', 'json', 'empty', 'partial', 'date', 'nonsense']) {
    results[name] = await thrownBy(new TasksApi({ baseUrl: `${proxy}/${name}` }).getLiveness());
  }
  return results;
}

export async function withoutService({ nobody, proxy }: URLs) {
  return [
    await thrownBy(new TasksApi({ baseUrl: nobody }).getLiveness()),
    await thrownBy(new TasksApi({ baseUrl: `${proxy}/cut` }).getLiveness()),
  ];
}

/** Creates five tasks. Those with an even number are completed. */
async function five(service: string) {
  const visit = arrive(service);
  for (const number of [1, 2, 3, 4, 5]) {
    const body = { title: `Task ${number}`, completed: number % 2 === 0 };
    await visit.api.createTask({ path: visit.path, body });
  }
  visit.requests.length = 0;
  return visit;
}

export async function pages({ service }: URLs) {
  const { api, path, requests } = await five(service);
  const query: TaskQuery = { limit: 2, order: 'asc' };
  const all = await titles(api.allTasks({ path, query }));
  return { all, requests: requests.length };
}

export async function filteredPages({ service }: URLs) {
  const { api, path, requests } = await five(service);
  const query = { limit: 1, completed: true, q: 'task', sort: 'updated_at' } as const;
  const done = await titles(api.allTasks({ path, query }));
  return { done, requests: requests.length };
}

export async function noPages({ service }: URLs) {
  const { api, path, requests } = arrive(service);
  return { all: await titles(api.allTasks({ path })), requests: requests.length };
}

export async function breakEarly({ service }: URLs) {
  const { api, path, requests } = await five(service);
  for await (const _ of api.allTasks({ path, query: { limit: 2 } })) break;
  return requests.length;
}

/** Aborts an iteration over five tasks, in pages of two, at the task with this number. */
async function abortedAt(number: number, service: string) {
  const { api, path, requests } = await five(service);
  const controller = new AbortController();
  const { signal } = controller;
  let seen = 0;
  const iterate = async () => {
    for await (const _ of api.allTasks({ path, query: { limit: 2 }, signal })) {
      seen += 1;
      if (seen === number) controller.abort();
    }
  };
  const { name } = await thrownBy(iterate());
  return { name, seen, requests: requests.length };
}

export async function aborted({ service }: URLs) {
  return { inAPage: await abortedAt(1, service), betweenPages: await abortedAt(2, service) };
}

/** Aborts a request before the response, and before the body, with and without a reason. */
export async function abortedOnTheWay({ proxy }: URLs) {
  const abortedAt = (name: string, reason?: string) => {
    const controller = new AbortController();
    const api = new TasksApi({ baseUrl: `${proxy}/${name}` });
    setTimeout(() => controller.abort(reason), 500);
    return thrownBy(api.getLiveness({ signal: controller.signal }));
  };
  return Promise.all([abortedAt('never'), abortedAt('stuck'), abortedAt('stuck', 'too slow')]);
}

export async function refreshed({ service }: URLs) {
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

/** Sends requests from an origin that is not allowed. */
export async function fromForeignOrigin({ service }: URLs) {
  const api = new TasksApi({ baseUrl: service });
  const path = { user_id: 'abroad' };
  return [
    await thrownBy(api.listTasks({ path })),
    await thrownBy(api.createTask({ path, body: { title: 'Buy milk' } })),
    await thrownBy(api.getReadiness()),
  ];
}

export async function emptySearch({ service }: URLs) {
  const { api, path } = await five(service);
  const query = { q: '', limit: 2 };
  const { data } = await api.listTasks({ path, query });
  const all = await titles(api.allTasks({ path, query }));
  return { page: data.items.length, all: all.length, given: query };
}

export async function withoutBaseUrl() {
  const config = {} as { baseUrl: string };
  const made = async (baseUrl: string) => new TasksApi({ ...config, baseUrl });
  const error = await made('').catch((error: Error) => error);
  const undefinedUrl = await (async () => new TasksApi(config))().catch((error: Error) => error);
  return [error, undefinedUrl].map((each) => (each instanceof TypeError ? each.message : 'no error'));
}

export async function slashAtTheEnd({ service }: URLs) {
  return (await new TasksApi({ baseUrl: `${service}/` }).getLiveness()).data.status;
}

export async function replaced({ service }: URLs) {
  const { api, path } = arrive(service);
  const body = { title: 'Buy milk', description: 'Two litres' };
  const { data: task } = await api.createTask({ path, body });
  const { data: done } = await api.replaceTask(toReplace(task, { completed: true }));
  const again = await thrownBy(api.replaceTask(toReplace(task)));
  const { title, description, completed } = done;
  return { done: { title, description, completed }, same: task.id === done.id, again: again.status };
}

// --- network errors --------------------------------------------------------------------------

/** An injected failure of a request: a problem, a status, or no response. */
type ProblemFailure = { status: number; type?: string; after?: string };
type Failure = ProblemFailure | 'no response' | 'lost response';

/** Returns a user whose first requests fail like this. */
function withFailures(baseUrl: string, failures: Failure[], retries?: number) {
  const path = { user_id: crypto.randomUUID() };
  const sent: string[] = [];
  const api = new TasksApi({
    baseUrl,
    retries,
    fetch: async (input, init) => {
      const request = new Request(input, init);
      sent.push(request.method);
      const failure = failures.shift();
      if (failure === undefined) return fetch(request);
      if (failure === 'lost response') await fetch(request);
      if (typeof failure === 'string') throw new TypeError(failure);
      const { status, type, after } = failure;
      const headers = new Headers({ 'Content-Type': 'application/problem+json' });
      if (after) headers.set('Retry-After', after);
      return new Response(JSON.stringify({ title: 'Failed', status, type }), { status, headers });
    },
  });
  return { api, path, sent };
}

/** Runs a call with immediate timers, and returns its result and its requested delays. */
async function withoutWaiting<T>(call: () => Promise<T>) {
  const waits: number[] = [];
  const { setTimeout } = globalThis;
  const soon = (run: () => void, milliseconds: number, ...rest: unknown[]) => {
    // Node's fetch also uses timers.
    if (!new Error().stack?.includes('retry.js')) return setTimeout(run, milliseconds, ...rest);
    waits.push(milliseconds);
    return setTimeout(run, 0);
  };
  globalThis.setTimeout = soon as unknown as typeof setTimeout;
  try {
    return { result: await call(), waits };
  } finally {
    globalThis.setTimeout = setTimeout;
  }
}

const OVERLOADED: ProblemFailure = { status: 503, type: '/problems/overloaded', after: '1' };
const IN_USE: ProblemFailure = { status: 409, type: '/problems/idempotency-key-in-use', after: '1' };
const UNAVAILABLE: ProblemFailure = { status: 503, type: '/problems/database-unavailable', after: '1' };

/** Returns the operations that are retried, for each failure. */
export async function sentAgain({ service }: URLs) {
  const failures = { OVERLOADED, IN_USE, UNAVAILABLE, gateway: { status: 502 }, network: 'no response' } as const;
  const results: Record<string, string[]> = {};
  for (const [name, failure] of Object.entries(failures)) {
    const { api, path, sent } = withFailures(service, [], 2);
    const { data: task } = await api.createTask({ path, body: { title: 'Buy milk' } });
    const one = { path: { ...path, task_id: task.id } };
    const body = { title: 'Buy tea' };
    const whole = { title: 'Buy tea', description: null, completed: false };
    const calls = {
      get: (api: TasksApi) => api.getTask(one),
      put: (api: TasksApi) => api.replaceTask({ ...one, body: whole }),
      patch: (api: TasksApi) => api.updateTask({ ...one, body }),
      post: (api: TasksApi) => api.createTask({ path, body }),
      keyed: (api: TasksApi) =>
        api.createTask({ path, body, headers: { 'Idempotency-Key': crypto.randomUUID() } }),
      delete: (api: TasksApi) => api.deleteTask(one),
    };
    results[name] = [];
    for (const [operation, call] of Object.entries(calls)) {
      const { api, sent } = withFailures(service, [failure, failure], 2);
      const { result } = await withoutWaiting(() => thrownBy(call(api)));
      if (sent.length === 3 && result.name === 'nothing was thrown') results[name].push(operation);
      else if (sent.length !== 1) results[name].push(`${operation}: ${sent.length} requests, ${result.name}`);
    }
  }
  return results;
}

export async function notSentAgain({ service }: URLs) {
  const { api, path, sent } = withFailures(service, [OVERLOADED]);
  const rejected = await thrownBy(api.listTasks({ path }));
  const given = withFailures(service, [UNAVAILABLE, UNAVAILABLE, UNAVAILABLE], 2);
  const { result } = await withoutWaiting(() => thrownBy(given.api.listTasks({ path: given.path })));
  const long = withFailures(service, [{ ...UNAVAILABLE, after: '3600' }], 2);
  const tooLong = await thrownBy(long.api.listTasks({ path: long.path }));
  return {
    byDefault: [rejected.status, sent.length],
    inTheEnd: [result.status, given.sent.length],
    tooLong: [tooLong.status, long.sent.length],
  };
}

export async function waits({ service }: URLs) {
  const failures: Failure[] = [OVERLOADED, OVERLOADED, 'no response', 'no response'];
  const { api, path } = withFailures(service, failures, 4);
  const { waits } = await withoutWaiting(() => api.listTasks({ path }));
  return waits;
}

export async function abortedWaiting({ service }: URLs) {
  const { api, path, sent } = withFailures(service, [{ ...OVERLOADED, after: '30' }], 2);
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 200);
  const { name } = await thrownBy(api.listTasks({ path, signal: controller.signal }));
  const requests = sent.length;
  const early = await thrownBy(api.listTasks({ path, signal: controller.signal }));
  return { name, requests, early: early.name };
}

export async function keyedOnce({ service }: URLs) {
  const { api, path } = withFailures(service, ['lost response'], 2);
  const headers = { 'Idempotency-Key': crypto.randomUUID() };
  await withoutWaiting(() => api.createTask({ path, headers, body: { title: 'Buy milk' } }));
  return titles(api.allTasks({ path }));
}

/** Loses the response of a successful change, so that the precondition of its retry fails. */
export async function replacedUnseen({ service }: URLs) {
  const { api, path } = withFailures(service, []);
  const { data: task } = await api.createTask({ path, body: { title: 'Buy milk' } });
  const change = toReplace(task, { completed: true });
  const lost = withFailures(service, ['lost response', OVERLOADED], 2);
  const { result } = await withoutWaiting(() => thrownBy(lost.api.replaceTask(change)));
  const lostAgain = withFailures(service, ['no response', OVERLOADED], 1);
  const { result: last } = await withoutWaiting(() => thrownBy(lostAgain.api.replaceTask(change)));
  return { name: result.name, last: last.name, completed: (await api.refresh(task)).completed };
}

/**
 * Sends fifty concurrent requests to a service with a concurrency limit of 1. In a page, a rejected
 * preflight is a network error, so only requests with an idempotency key are retried.
 */
export async function burst({ narrow }: URLs) {
  const path = { user_id: crypto.randomUUID() };
  const api = new TasksApi({ baseUrl: narrow, retries: 50 });
  const numbers = [...Array(50).keys()];
  const create = (it: number) => {
    const headers = { 'Idempotency-Key': crypto.randomUUID() };
    return api.createTask({ path, headers, body: { title: `Task ${it}` } });
  };
  await Promise.all(numbers.map(create));
  return (await titles(api.allTasks({ path, query: { limit: 200 } }))).length;
}

export async function resumed({ service }: URLs) {
  const { path } = await five(service);
  const failures: Failure[] = [];
  const { api } = withFailures(service, failures);
  const list = api.allTasks({ path, query: { limit: 2, order: 'asc' } });
  const found: string[] = [];
  const iterate = async () => {
    for await (const task of list) {
      found.push(task.title);
      if (found.length === 1) break;
      if (found.length === 2) failures.push(UNAVAILABLE, 'no response');
    }
  };
  const ends = [];
  for (const _ of [1, 2, 3, 4, 5]) ends.push((await thrownBy(iterate())).name);
  return { found, ends };
}

export async function atTheSameTime({ service }: URLs) {
  const { api, path } = await five(service);
  const list = api.allTasks({ path, query: { limit: 2, order: 'asc' } });
  const results = await Promise.all([1, 2, 3, 4, 5, 6].map(() => list.next()));
  return results.map(({ value }) => value?.title ?? null);
}
