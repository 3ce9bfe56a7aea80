// Uses of the package. Each function runs in Node and in Chromium, and returns JSON that a test
// checks.
import { ProblemError, TasksApi, addDays, dueOn, ifUnchanged, toReplace, today } from 'tasks-api-client';
import type { Due, Problem, Task, TaskList, TaskQuery } from 'tasks-api-client';
import { arrive, thrownBy, withFailures, withoutWaiting } from './support.js';
import type { Failure, ProblemFailure, URLs } from './support.js';

export * from './offline.js';

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
  const createList = await api.createList({ path, body: { name: 'Groceries' } });
  const list: TaskList = createList.data;
  const ofList = { ...path, list_id: list.id };
  const getList = await api.getList({ path: ofList });
  const updateList = await api.updateList({ ...ifUnchanged(list), body: { name: 'Shop' } });
  const chosenList = { ...path, list_id: crypto.randomUUID() };
  const replaceList = await api.replaceList({ path: chosenList, body: { name: 'Work' } });
  const moveList = await api.moveList({ path: chosenList, body: { after_id: null } });
  const listLists = await api.listLists({ path });
  const deleteList = await api.deleteList(ifUnchanged(moveList.data));
  const moveTask = await api.moveTask({ path: chosen, body: { after_id: null, list_id: list.id } });
  await api.addLabels(moveTask.data, ['errands']);
  const countTasks = await api.countTasks({ path, query: { list_id: list.id } });
  const listLabels = await api.listLabels({ path });
  const changeTasks = await api.changeTasks({ path, body: { create: [{ title: 'Call Bob' }] } });
  const listChanges = await api.listChanges({ path, query: { limit: 200 } });
  const exportUser = await api.exportUser({ path });
  const deleteUser = await api.deleteUser({ path });
  const getLiveness = await api.getLiveness();
  const getReadiness = await api.getReadiness();
  const getContractYaml = await api.getContractYaml();
  const getContractJson = await api.getContractJson();
  const results = {
    createTask, getTask, updateTask, listTasks, replaceTask, deleteTask, moveTask, countTasks, listLabels,
    createList, getList, updateList, replaceList, moveList, listLists, deleteList,
    changeTasks, listChanges, exportUser, deleteUser,
    getLiveness, getReadiness, getContractYaml, getContractJson,
  };
  const statuses = Object.entries(results).map(([name, { response }]) => [name, response.status]);
  return {
    statuses: Object.fromEntries(statuses),
    titles: [created.title, getTask.data.title, listTasks.data.items[0]?.title, replaceTask.data.title],
    completed: updateTask.data.completed,
    names: [getList.data.name, updateList.data.name, ...listLists.data.items.map(({ name }) => name)],
    count: countTasks.data,
    labels: listLabels.data.items,
    created: changeTasks.data.created.map(({ title }) => title),
    changes: listChanges.data.items.map(({ task, list, deleted }) => task?.title ?? list?.name ?? deleted),
    exported: exportUser.data.split('\n').slice(-2),
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
  const { data: number } = await api.countTasks({ path, query: { q: '' } });
  return { page: data.items.length, all: all.length, count: number.count, given: query };
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
  const { data: list } = await api.createList({ path, body: { name: 'Groceries' } });
  const body = {
    title: 'Buy milk',
    description: 'Two litres',
    list_id: list.id,
    priority: 'high',
    due: dueOn('2026-11-24', '17:30', 'Europe/Berlin'),
    labels: ['errands', 'shop'],
  } as const;
  const { data: task } = await api.createTask({ path, body: { ...body, labels: [...body.labels] } });
  const { data: subtask } = await api.createTask({ path, body: { title: 'Pay', parent_id: task.id } });
  const { data: paid } = await api.replaceTask(toReplace(subtask, { completed: true }));
  const { data: done } = await api.replaceTask(toReplace(task, { completed: true }));
  const again = await thrownBy(api.replaceTask(toReplace(task)));
  const { title, description, completed, list_id, parent_id, priority, due, labels } = done;
  return {
    done: { title, description, completed, listed: list_id === list.id, parent_id, priority, due, labels },
    paid: [paid.completed, paid.parent_id === task.id],
    same: task.id === done.id,
    again: again.status,
  };
}

// --- organizing ------------------------------------------------------------------------------

/** Creates a list with tasks, and returns a function that reads their titles in order. */
async function listOf(service: string, ...names: string[]) {
  const { api, path } = arrive(service);
  const { data: list } = await api.createList({ path, body: { name: 'Groceries' } });
  const tasks: Record<string, Task> = {};
  for (const title of names) {
    tasks[title] = (await api.createTask({ path, body: { title, list_id: list.id } })).data;
  }
  const inOrder = async (place: TaskQuery = { list_id: list.id }) => {
    const query = { sort: 'position', order: 'asc', ...place } as const;
    return (await api.listTasks({ path, query })).data.items;
  };
  const order = async (place?: TaskQuery) => (await inOrder(place)).map(({ title }) => title).join('');
  return { api, path, list, tasks, inOrder, order };
}

export async function moved({ service }: URLs) {
  const { api, path, tasks, inOrder, order } = await listOf(service, 'A', 'B', 'C', 'D');
  const { A, B, C, D } = tasks as Record<'A' | 'B' | 'C' | 'D', Task>;
  const orders = [];
  const changed: Task = await api.moveAfter(A, C);
  orders.push(await order());
  await api.moveBefore(D, B, await inOrder());
  orders.push(await order());
  // Down and up by one place, from the displayed order.
  await api.moveBefore(D, C, await inOrder());
  orders.push(await order());
  await api.moveBefore(A, C, await inOrder());
  orders.push(await order());

  const { data: parent } = await api.createTask({ path, body: { title: 'P' } });
  const { data: first } = await api.createTask({ path, body: { title: 'S', parent_id: parent.id } });
  const under = await api.moveAfter(B, first);
  const inbox = await api.moveBefore(C, parent, [parent]);
  return {
    orders,
    etag: changed.etag !== A.etag,
    rest: await order(),
    subtasks: await order({ parent_id: parent.id }),
    inbox: await order({ list_id: 'none' }),
    lists: [under.list_id, under.parent_id === parent.id, inbox.list_id],
  };
}

export async function notMoved({ service }: URLs) {
  const { api, tasks, inOrder, order } = await listOf(service, 'A', 'B');
  const { A, B } = tasks as Record<'A' | 'B', Task>;
  const siblings = await inOrder();
  const results = [
    await thrownBy(api.moveBefore(A, A, siblings)),
    await thrownBy(api.moveBefore(A, B, [A])),
    await thrownBy(api.moveAfter(A, A)),
  ];
  await api.deleteTask(ifUnchanged(B));
  results.push(await thrownBy(api.moveAfter(A, B)));
  const controller = new AbortController();
  controller.abort();
  const { signal } = controller;
  results.push(await thrownBy(api.moveAfter(A, B, { signal })));
  results.push(await thrownBy(api.moveBefore(A, B, siblings, { signal })));
  return { errors: results.map(({ name, type, errors }) => [name, type, errors]), order: await order() };
}

export async function labels({ service }: URLs) {
  const { api, path, requests } = arrive(service);
  const { data: task } = await api.createTask({ path, body: { title: 'Buy milk', labels: ['shop'] } });
  const added = await api.addLabels(task, ['errands', 'shop']);
  requests.length = 0;
  const same = await api.addLabels(added, ['shop']);
  const requestsOfSame = requests.length;
  const removed = await api.removeLabels(same, ['shop', 'unknown']);
  return {
    added: added.labels,
    same: [same.etag === added.etag, requestsOfSame],
    removed: removed.labels,
    comma: await thrownBy(api.addLabels(removed, ['a,b'])),
  };
}

/** Several clients change labels of the same, outdated task. */
export async function labelsConcurrently({ service }: URLs) {
  const { api, path } = arrive(service);
  const body = { title: 'Buy milk', labels: ['a', 'b', 'c'] };
  const { data: task } = await api.createTask({ path, body });
  await api.updateTask({ ...ifUnchanged(task), body: { completed: true } });
  await Promise.all([
    api.addLabels(task, ['d']),
    api.addLabels(task, ['e', 'f']),
    api.removeLabels(task, ['a']),
    api.removeLabels(task, ['b']),
    api.addLabels(task, ['g']),
  ]);
  const now = await api.refresh(task);
  await api.deleteTask(ifUnchanged(now));
  return { labels: now.labels, completed: now.completed, gone: await thrownBy(api.addLabels(now, ['h'])) };
}

/** Returns the error, and the number of requests, if another client changes the task each time. */
export async function labelsInVain({ service }: URLs) {
  const { api, path } = arrive(service);
  const { data: task } = await api.createTask({ path, body: { title: 'Buy milk' } });
  let patches = 0;
  const other = new TasksApi({
    baseUrl: service,
    fetch: async (input, init) => {
      const request = new Request(input, init);
      if (request.method === 'PATCH') {
        patches += 1;
        await api.updateTask({ path: ifUnchanged(task).path, body: { completed: patches % 2 === 0 } });
      }
      return fetch(request);
    },
  });
  const { status } = await thrownBy(other.addLabels(task, ['shop']));
  const controller = new AbortController();
  controller.abort();
  const { signal } = controller;
  const aborted = [
    await thrownBy(api.addLabels(task, ['shop'], { signal })),
    await thrownBy(api.removeLabels(task, ['shop'], { signal })),
  ];
  return { status, patches, aborted, labels: (await api.refresh(task)).labels };
}

export async function lists({ service }: URLs) {
  const { api, path, requests } = arrive(service);
  for (const name of ['One', 'Two', 'Three', 'Four', 'Five']) {
    await api.createList({ path, body: { name } });
  }
  requests.length = 0;
  const found: TaskList[] = [];
  for await (const list of api.allLists({ path, query: { limit: 2 } })) found.push(list);
  const [one] = found;
  if (!one) throw new Error('no list');
  await api.updateList({ ...ifUnchanged(one), body: { name: 'Uno' } });
  await api.createTask({ path, body: { title: 'Buy milk', list_id: one.id } });
  const ofList = { path: { ...path, list_id: one.id } };
  return {
    names: found.map(({ name }) => name),
    requests: requests.length,
    outdated: (await thrownBy(api.deleteList(ifUnchanged(one)))).status,
    notEmpty: (await thrownBy(api.deleteList(ofList))).type,
    unknown: (await thrownBy(api.createTask({ path, body: { title: 'A', list_id: path.user_id } }))).errors,
  };
}

/** Returns the dates and due dates that the service stores, whatever the zone of the device. */
export async function dates({ service }: URLs) {
  const { api, path } = arrive(service);
  const due: Array<Due | null> = [];
  const at: Array<string | null> = [];
  const bodies = [
    dueOn('2026-11-24'),
    dueOn('2026-11-24', '00:30'),
    dueOn('2026-11-24', '00:30', 'Pacific/Kiritimati'),
    dueOn('2026-11-24', null, 'America/Los_Angeles'),
  ];
  for (const each of bodies) {
    const { data: task } = await api.createTask({ path, body: { title: 'Buy milk', due: each } });
    due.push(task.due);
    at.push(task.due_at);
  }
  const newYear = new Date('2026-12-31T23:30:00Z');
  const zones = ['UTC', 'Pacific/Kiritimati', 'Pacific/Pago_Pago', 'Asia/Calcutta'];
  const here = today();
  return {
    due,
    at,
    newYear: zones.map((zone) => today(zone, newYear)),
    here: [here, new Date().toDateString() === new Date(`${here}T12:00:00`).toDateString()],
    days: [addDays('2026-12-31', 1), addDays('2028-03-01', -1), addDays('2026-03-29', 0)],
    wrong: await thrownBy((async () => today('Europe/Atlantis'))()),
  };
}

// --- network errors --------------------------------------------------------------------------

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
      move: (api: TasksApi) => api.moveTask({ ...one, body: { after_id: null } }),
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
