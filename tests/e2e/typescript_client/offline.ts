// Uses of the local copy, of batches and of `restore`. Each runs in Node and in Chromium.
import { MemoryStore, ProblemError, TasksApi, ifUnchanged, rejectedChanges, toCreate } from 'tasks-api-client';
import type { ChangePage, RejectedChange, Task, TaskBatch, TaskList } from 'tasks-api-client';
import { arrive, thrownBy, withFailures, withoutWaiting } from './support.js';
import type { Failure, URLs } from './support.js';

type User = { user_id: string };

const TIMEOUT = 40_000; // milliseconds: ends a loop that would run forever

/** A copy that records the number of its tasks after each change. */
class WatchedStore extends MemoryStore {
  readonly sizes: number[] = [];

  override apply(page: ChangePage) {
    super.apply(page);
    this.sizes.push(this.tasks.length);
  }

  override reset() {
    super.reset();
    this.sizes.push(this.tasks.length);
  }
}

/** Brings a copy up to date, in pages of two, and returns the number of pages. */
async function update(api: TasksApi, path: User, store: MemoryStore, limit = 2) {
  let pages = 0;
  const signal = AbortSignal.timeout(TIMEOUT);
  for await (const result of api.sync(store, { path, query: { limit }, signal })) {
    if (!result.online) continue;
    pages += 1;
    if (result.complete) break;
  }
  return pages;
}

/** Returns what an application does at its next start. */
function saved(store: MemoryStore): WatchedStore {
  return new WatchedStore(JSON.parse(JSON.stringify(store)));
}

function inOrder<Item extends { id: string }>(items: Item[]): Item[] {
  return items.sort((a, b) => (a.id < b.id ? -1 : 1));
}

/** Returns whether a copy has the same tasks and lists as the service. */
async function isEqual(api: TasksApi, path: User, store: MemoryStore): Promise<boolean> {
  const tasks: Task[] = [];
  const lists: TaskList[] = [];
  for await (const task of api.allTasks({ path })) tasks.push(task);
  for await (const list of api.allLists({ path })) lists.push(list);
  const copy = [inOrder(store.tasks), inOrder(store.lists)];
  if (store.toJSON().items.length !== tasks.length + lists.length) return false; // nothing deleted
  return JSON.stringify(copy) === JSON.stringify([inOrder(tasks), inOrder(lists)]);
}

async function create(api: TasksApi, path: User, ...names: string[]): Promise<Task[]> {
  const { data } = await api.changeTasks({ path, body: { create: names.map((title) => ({ title })) } });
  return data.created;
}

async function erase(api: TasksApi, path: User) {
  while ((await api.deleteUser({ path })).response.status !== 204);
}

// --- the copy --------------------------------------------------------------------------------

/** Changes everything that a user can change, and compares the copy with the service each time. */
export async function copied({ service }: URLs) {
  const { api, path, requests } = arrive(service);
  let store = new WatchedStore();
  const equal: boolean[] = [];
  const pages: number[] = [];
  const step = async () => {
    pages.push(await update(api, path, store));
    equal.push(await isEqual(api, path, store));
  };
  await step();

  const { data: list } = await api.createList({ path, body: { name: 'Groceries' } });
  const { data: empty } = await api.createList({ path, body: { name: 'Empty' } });
  const [milk, trip, call] = (await create(api, path, 'Milk', 'Trip', 'Call')) as [Task, Task, Task];
  await api.createTask({ path, body: { title: 'Book', parent_id: trip.id } });
  // A task may have the ID of a list.
  await api.replaceTask({
    path: { ...path, task_id: list.id },
    body: { title: 'Same ID', description: null, completed: false },
  });
  await step();

  store = saved(store);
  const { data: moved } = await api.moveTask({
    ...ifUnchanged(milk),
    body: { after_id: null, list_id: list.id },
  });
  await api.updateTask({ ...ifUnchanged(moved), body: { completed: true } });
  await api.deleteTask(ifUnchanged(trip));
  await api.deleteList(ifUnchanged(empty));
  await step();

  await api.changeTasks({
    path,
    body: { create: [{ title: 'Rent' }], update: [{ id: call.id, priority: 'high' }], delete: [{ id: milk.id }] },
  });
  await api.deleteTask({ path: { ...path, task_id: list.id } });
  requests.length = 0;
  await step();
  const first = (requests[0] as Request).url;
  return {
    equal,
    pages,
    resumed: new URL(first).searchParams.has('since'),
    tasks: store.tasks.map(({ title }) => title).sort(),
    lists: store.lists.map(({ name }) => name),
  };
}

/** Erases a user who then creates other tasks, and interrupts the walk that follows. */
export async function rebuilt({ service }: URLs) {
  const { api, path } = arrive(service);
  const full = new WatchedStore();
  await create(api, path, 'A', 'B', 'C');
  await api.createList({ path, body: { name: 'L' } });
  await update(api, path, full);
  await erase(api, path);
  const erased = saved(full);
  await update(api, path, erased);

  await create(api, path, 'D', 'E');
  const sizes: number[] = [];
  const interrupted = saved(full);
  for await (const result of api.sync(interrupted, { path, query: { limit: 1 } })) {
    if (result.online) break;
  }
  sizes.push(...interrupted.sizes);
  const store = saved(interrupted);
  await update(api, path, store, 1);
  sizes.push(...store.sizes);
  return {
    erased: [erased.sizes, erased.lists.length],
    sizes,
    equal: await isEqual(api, path, store),
  };
}

/** A store that has the token of another user. */
export async function invalidToken({ service }: URLs) {
  const alice = arrive(service);
  const bob = arrive(service);
  await create(alice.api, alice.path, 'A', 'B');
  await create(bob.api, bob.path, 'C');
  const store = new WatchedStore();
  await update(alice.api, alice.path, store);
  const copy = saved(store);
  await update(bob.api, bob.path, copy);
  return { sizes: copy.sizes, equal: await isEqual(bob.api, bob.path, copy) };
}

/** Waits for three changes of another client, and counts the requests. */
export async function waited({ service }: URLs) {
  const { api, path, requests } = arrive(service);
  const other = new TasksApi({ baseUrl: service });
  const names = ['A', 'B', 'C'];
  const found: string[] = [];
  const started = Date.now();
  const signal = AbortSignal.timeout(TIMEOUT);
  for await (const result of api.sync(new MemoryStore(), { path, signal })) {
    if (result.online) found.push(...result.changes.map(({ task }) => task?.title ?? ''));
    const name = names[found.length];
    if (!name) break;
    setTimeout(() => void create(other, path, name), 1500);
  }
  const waits = requests.map((request) => new URL((request as Request).url).searchParams.get('wait'));
  return { found, waits, seconds: (Date.now() - started) / 1000 };
}

// --- interruptions ---------------------------------------------------------------------------

/** Creates a task while the service is stopped, and sends it when the service is back. */
export async function offlineAndBack({ restarted, control }: URLs) {
  const api = new TasksApi({ baseUrl: restarted });
  const path = { user_id: crypto.randomUUID() };
  const store = new MemoryStore();
  const [milk] = (await create(api, path, 'Milk')) as [Task];
  const states: boolean[] = [];
  const shown: number[] = [];
  let queue: TaskBatch | undefined;
  let failed: unknown;
  let stopped: Promise<unknown> | undefined;
  const signal = AbortSignal.timeout(TIMEOUT);
  for await (const result of api.sync(store, { path, query: { wait: 5 }, signal })) {
    if (result.online !== states.at(-1)) states.push(result.online);
    else continue;
    shown.push(store.tasks.length);
    if (!result.online) {
      await stopped;
      queue = {
        create: [{ id: crypto.randomUUID(), title: 'Bread' }],
        update: [{ id: milk.id, if_match: milk.etag, completed: true }],
      };
      failed = (await thrownBy(api.changeTasks({ path, body: queue }))).name;
      await fetch(`${control}/start`);
    } else if (queue) {
      const headers = { 'Idempotency-Key': crypto.randomUUID() };
      await api.changeTasks({ path, headers, body: queue });
      break;
    } else {
      stopped = fetch(`${control}/stop`); // while the next request waits
    }
  }
  await update(api, path, store);
  const tasks = store.tasks.map(({ title, completed }) => `${title} ${completed}`).sort();
  return { states, shown, failed, tasks, equal: await isEqual(api, path, store) };
}

/** Restores a backup of the database, which lacks the newest task. */
export async function restoredDatabase({ restarted, control }: URLs) {
  const { api, path } = arrive(restarted);
  const store = new WatchedStore();
  await create(api, path, 'Milk');
  await fetch(`${control}/backup`);
  await create(api, path, 'Bread');
  await update(api, path, store);
  await fetch(`${control}/restore`);
  await update(api, path, store);
  const tasks = store.tasks.map(({ title }) => title);
  return { sizes: store.sizes, tasks, equal: await isEqual(api, path, store) };
}

/** Returns the results of requests that fail in several ways, and the waits after them. */
export async function failures({ service }: URLs) {
  const failing: Failure[] = [
    'no response',
    { status: 502 },
    { status: 503, type: '/problems/database-unavailable', after: '7' },
    { status: 429, after: '86400' },
    { status: 408 },
    ...Array<Failure>(8).fill('no response'),
  ];
  const { api, path, sent } = withFailures(service, failing, 3);
  const errors: unknown[] = [];
  const { waits } = await withoutWaiting(async () => {
    const signal = AbortSignal.timeout(TIMEOUT);
    for await (const result of api.sync(new MemoryStore(), { path, signal })) {
      if (result.online) break;
      errors.push(result.error instanceof ProblemError ? result.error.status : 'network');
    }
  });
  return { errors, waits, sent: sent.length };
}

async function next(api: TasksApi, signal?: AbortSignal) {
  const path = { user_id: crypto.randomUUID() };
  return api.sync(new MemoryStore(), { path, signal }).next();
}

/** Returns errors that a retry cannot repair: of the service, and of the store. */
export async function permanentErrors({ service, proxy }: URLs) {
  const broken = new MemoryStore();
  broken.apply = () => {
    throw new RangeError('The disk is full.');
  };
  const { api, path } = arrive(service);
  return [
    await thrownBy(next(new TasksApi({ baseUrl: `${proxy}/json` }))),
    await thrownBy(api.sync(broken, { path }).next()),
    await thrownBy(api.sync(new MemoryStore(), { path, query: { limit: 0 } }).next()),
  ].map(({ name, status }) => [name, status ?? null]);
}

/** Aborts before the start, during a request, during the wait after an error, and between changes. */
export async function abortedSync({ service, proxy }: URLs) {
  const abortedIn = async (baseUrl: string, milliseconds: number) => {
    const controller = new AbortController();
    const results: boolean[] = [];
    const iterate = async () => {
      if (milliseconds === 0) controller.abort();
      else setTimeout(() => controller.abort(), milliseconds);
      const path = { user_id: crypto.randomUUID() };
      const { signal } = controller;
      for await (const { online } of new TasksApi({ baseUrl }).sync(new MemoryStore(), { path, signal })) {
        results.push(online);
      }
    };
    return [(await thrownBy(iterate())).name, results];
  };
  const started = Date.now();
  const results = [
    await abortedIn(service, 0),
    await abortedIn(`${proxy}/never`, 200),
    await abortedIn(`${proxy}/html`, 500), // its `Retry-After` is 7 seconds
    await abortedIn(service, 1500),
  ];
  return { results, seconds: (Date.now() - started) / 1000 };
}

/** Returns the result of a request whose connection was lost silently. */
export async function silentConnection({ proxy }: URLs) {
  const { timeout } = AbortSignal;
  const limits: number[] = [];
  AbortSignal.timeout = (milliseconds) => {
    limits.push(milliseconds);
    return timeout.call(AbortSignal, 200);
  };
  try {
    const { value } = await next(new TasksApi({ baseUrl: `${proxy}/never` }));
    return { online: value.online, name: !value.online && (value.error as Error).name, limits };
  } finally {
    AbortSignal.timeout = timeout;
  }
}

/** What a test reads while `follow` runs. */
export const followed = { failures: 0, tasks: [] as string[] };

/** Follows the changes of a user until the page is closed. The waits after errors are the longest. */
export async function follow({ service, user }: URLs & { user: string }) {
  Math.random = () => 1;
  const store = new MemoryStore();
  const iterate = async () => {
    for await (const { online } of new TasksApi({ baseUrl: service }).sync(store, {
      path: { user_id: user },
      query: { wait: 0 }, // Chromium does not end a waiting request when it goes offline
    })) {
      if (!online) followed.failures += 1;
      followed.tasks = store.tasks.map(({ title }) => title);
    }
  };
  void iterate();
}

// --- batches ---------------------------------------------------------------------------------

/** Sends a batch, and returns the type of its problem and the changes that it names. */
async function rejected(api: TasksApi, path: User, body: TaskBatch) {
  try {
    await api.changeTasks({ path, body });
  } catch (error) {
    if (!(error instanceof ProblemError)) throw error;
    const changes: RejectedChange[] = rejectedChanges(error, body);
    return {
      type: error.type,
      changes: changes.map((each) => {
        // The compiler knows the type of the change of each operation.
        const name = each.operation === 'create' ? each.change.title : each.change.id;
        return [each.operation, each.index, name, each.error.pointer];
      }),
    };
  }
  return { type: 'nothing was thrown', changes: [] };
}

export async function batches({ service }: URLs) {
  const { api, path } = arrive(service);
  const [a, b, c] = (await create(api, path, 'A', 'B', 'C')) as [Task, Task, Task];
  for (const task of [a, c]) await api.updateTask({ ...ifUnchanged(task), body: { completed: true } });
  const unchanged = async () => {
    const { data } = await api.listTasks({ path, query: { sort: 'created_at' } });
    return data.items.map(({ title }) => title).sort().join('');
  };
  const names: Record<string, string> = { [a.id]: 'a', [b.id]: 'b', [c.id]: 'c', [path.user_id]: 'unknown' };
  const send = async (body: TaskBatch) => {
    const { type, changes } = await rejected(api, path, body);
    return [type, ...changes.map((each) => each.map((value) => names[String(value)] ?? value))];
  };
  const wrong = { title: '' };
  return {
    outdated: await send({
      create: [{ title: 'D' }],
      update: [
        { id: a.id, if_match: a.etag, title: 'AA' },
        { id: b.id, if_match: b.etag, title: 'BB' },
      ],
      delete: [{ id: c.id, if_match: c.etag }],
    }),
    references: await send({
      create: [{ title: 'D' }, { title: 'E', list_id: path.user_id }],
      update: [{ id: b.id, parent_id: path.user_id }],
    }),
    missing: await send({ update: [{ id: b.id, completed: true }], delete: [{ id: path.user_id }] }),
    invalid: await send({ create: [wrong, { title: 'D' }, { title: 'E', labels: ['a,b'] }] }),
    twice: await send({ update: [{ id: b.id }], delete: [{ id: b.id }] }),
    empty: await send({}),
    last: rejectedChanges(
      { errors: [{ pointer: '/update/12/labels/0', parameter: null, detail: 'not unique' }] },
      { update: Array.from({ length: 13 }, (_, number) => ({ id: String(number) })) },
    ).map(({ index, change }) => [index, change]),
    others: rejectedChanges(
      {
        errors: [
          { pointer: '/create', parameter: null, detail: 'an array' },
          { pointer: '/create/7', parameter: null, detail: 'not in the batch' },
          { pointer: null, parameter: 'Idempotency-Key', detail: 'a header' },
        ],
      },
      { create: [{ title: 'D' }] },
    ),
    tasks: await unchanged(),
  };
}

// --- undo of a delete ------------------------------------------------------------------------

/** Returns the names of the properties that differ. */
function differences(before: Task, after: Task): string[] {
  const names = Object.keys(before) as Array<keyof Task>;
  return names.filter((name) => JSON.stringify(before[name]) !== JSON.stringify(after[name]));
}

export async function restored({ service }: URLs) {
  const { api, path } = arrive(service);
  const { data: list } = await api.createList({ path, body: { name: 'Groceries' } });
  const { data: created } = await api.createTask({
    path,
    body: {
      title: 'Milk',
      description: 'Two litres',
      completed: true,
      list_id: list.id,
      priority: 'high',
      due: { date: '2026-11-24', time: '17:30', timezone: 'Europe/Berlin' },
      labels: ['errands'],
    },
  });
  const { data: subtask } = await api.createTask({ path, body: { title: 'Pay', parent_id: created.id } });
  const { data: eggs } = await api.createTask({ path, body: { title: 'Eggs', list_id: list.id } });
  const { data: task } = await api.updateTask({ ...ifUnchanged(created), body: { description: 'One litre' } });

  const undelete = async (task: Task, subtasks?: Task[]) => {
    await api.deleteTask(ifUnchanged(task));
    return api.restore(task, { subtasks });
  };
  const again: Task = await undelete(task, [subtask]);
  const { data: subtaskAgain } = await api.getTask(ifUnchanged(subtask));
  const moved = await api.moveAfter(again, eggs);
  const movedAgain = await undelete(moved);
  const { data: left } = await api.listTasks({ path, query: { parent_id: task.id } });

  const exists = await thrownBy(api.restore(task));
  await api.deleteTask(ifUnchanged(movedAgain));
  const lost = withFailures(service, ['lost response'], 1);
  await withoutWaiting(() => lost.api.restore(movedAgain));
  const controller = new AbortController();
  controller.abort();
  return {
    changed: differences(task, again),
    changedSubtask: differences(subtask, subtaskAgain),
    changedMoved: differences(moved, movedAgain),
    subtasksLeft: left.items.length,
    exists: [exists.type, exists.errors],
    requests: lost.sent.length,
    aborted: (await thrownBy(api.restore(task, { signal: controller.signal }))).name,
    properties: Object.keys(toCreate(task)).sort(),
  };
}
