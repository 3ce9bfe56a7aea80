import { toCreate } from './batch.js';
import { createClient, createConfig, type Config } from './generated/client/index.js';
import {
  Operations,
  type CountTasksData,
  type ExportUserData,
  type GetContractYamlData,
  type Label,
  type ListChangesData,
  type ListListsData,
  type ListTasksData,
  type Options,
  type Task,
  type TaskList,
  type TaskReplace,
} from './generated/index.js';
import { PagedIterator } from './pages.js';
import { ProblemError } from './problem.js';
import { retrying } from './retry.js';
import { followChanges, type SyncResult, type SyncStore } from './sync.js';

export type * from './generated/types.gen.js';
export type { Options } from './generated/index.js';
export { rejectedChanges, toCreate, type RejectedChange } from './batch.js';
export { addDays, dueOn, today } from './dates.js';
export type { PagedIterator } from './pages.js';
export { ProblemError } from './problem.js';
export { MemoryStore, type SavedCopy, type SyncResult, type SyncStore } from './sync.js';

/** The address of the service, and the options of every request: headers, credentials, a `fetch`. */
export type TasksApiConfig = Omit<Config, 'baseUrl' | 'responseStyle' | 'throwOnError'> & {
  /** The address of the service, such as `https://tasks.example.com`, or `/` for the page's origin. */
  baseUrl: string;
  /**
   * Maximum number of retries of a request (default 0). If the service is overloaded, every request
   * is retried. After a network error, 502, 503 or 504, only GET, PUT, moves, and POST with an
   * `Idempotency-Key` are retried. Each retry waits for `Retry-After` and a random time. Calls with
   * a `fetch` option are not retried.
   */
  retries?: number;
};

/** The filters and the order of tasks. */
export type TaskQuery = Omit<NonNullable<ListTasksData['query']>, 'cursor'>;

const RESPONSE_TIMEOUT = 30; // seconds that `sync` waits for a response, in addition to `wait`
const MAX_LABEL_ATTEMPTS = 10; // after each 412, which means that another client changed the task

/** Every operation of the contract. Error responses are thrown as a `ProblemError`. */
export class TasksApi extends Operations {
  #send: typeof fetch;

  constructor({ baseUrl, retries = 0, ...config }: TasksApiConfig) {
    if (!baseUrl) {
      throw new TypeError("TasksApi needs a baseUrl, such as 'http://127.0.0.1:8000'");
    }
    const send = config.fetch ?? ((...request) => fetch(...request));
    const client = createClient(
      createConfig({
        ...config,
        baseUrl: baseUrl.replace(/\/+$/, ''),
        fetch: retries > 0 ? retrying(send, retries) : send,
        throwOnError: true,
      }),
    );
    client.interceptors.error.use((error, response, request) => {
      // Chromium throws another error than the reason while it reads a body.
      if (request?.signal.aborted) return request.signal.reason;
      // `fetch` throws an Error.
      return response && !(error instanceof Error) ? new ProblemError(response, error) : error;
    });
    super({ client });
    this.#send = send;
  }

  /** Returns one page of tasks. An empty `q` is ignored. */
  override listTasks<ThrowOnError extends boolean = true>(
    options: Options<ListTasksData, ThrowOnError>,
  ) {
    return super.listTasks<ThrowOnError>(withoutEmptySearch(options));
  }

  /** Returns the number of tasks, up to 10000. An empty `q` is ignored. */
  override countTasks<ThrowOnError extends boolean = true>(
    options: Options<CountTasksData, ThrowOnError>,
  ) {
    return super.countTasks<ThrowOnError>(withoutEmptySearch(options));
  }

  /** Iterates over every task and fetches pages on demand. `limit` is the page size. */
  allTasks(
    options: Omit<Options<ListTasksData, true>, 'query'> & { query?: TaskQuery },
  ): PagedIterator<Task> {
    return new PagedIterator(async (cursor) => {
      const query: ListTasksData['query'] = { ...options.query, cursor };
      return (await this.listTasks<true>({ ...options, query })).data;
    }, options.signal);
  }

  /** Iterates over every list in the order of `position`, like `allTasks`. */
  allLists(
    options: Omit<Options<ListListsData, true>, 'query'> & { query?: { limit?: number } },
  ): PagedIterator<TaskList> {
    return new PagedIterator(async (cursor) => {
      const query: ListListsData['query'] = { ...options.query, cursor };
      return (await this.listLists<true>({ ...options, query })).data;
    }, options.signal);
  }

  /**
   * Keeps a local copy of all tasks and lists of a user. It continues from the token in the store, then
   * waits for changes, up to `wait` seconds in each request (default 30), until `signal` is aborted. After
   * a network error, 408, 429 and 5xx, it sends the request again. If the token has expired, it reads
   * everything again and deletes what is no longer there. Other errors are thrown. A store must not be
   * used by two calls at the same time.
   */
  sync(
    store: SyncStore,
    options: Omit<Options<ListChangesData, true>, 'query'> & {
      query?: { limit?: number; wait?: number };
    },
  ): AsyncGenerator<SyncResult, never, void> {
    const { limit = 200, wait: longest = 30 } = options.query ?? {};
    const read = async (since: string | undefined, isWaiting: boolean) => {
      const wait = isWaiting ? longest : 0;
      // A connection that was lost silently would never end the request.
      const timeout = AbortSignal.timeout((wait + RESPONSE_TIMEOUT) * 1000);
      const signal = options.signal ? AbortSignal.any([options.signal, timeout]) : timeout;
      const query = { since, limit, wait };
      return (await this.listChanges<true>({ fetch: this.#send, ...options, query, signal })).data;
    };
    return followChanges(read, store, options.signal);
  }

  /**
   * Creates a deleted task again, and its subtasks if they are given, in one request. See `toCreate` for
   * what is kept.
   */
  async restore(
    task: Task,
    { subtasks = [], signal }: { subtasks?: readonly Task[]; signal?: AbortSignal } = {},
  ): Promise<Task> {
    const path = { user_id: task.user_id };
    // `crypto.randomUUID` is missing on pages without TLS.
    const key = crypto.getRandomValues(new Uint32Array(4)).join('-');
    const headers = { 'Idempotency-Key': key };
    const body = { create: [task, ...subtasks].map(toCreate) };
    return (await this.changeTasks<true>({ path, headers, body, signal })).data.created[0] as Task;
  }

  /** Returns the current task, or the same object if it has not changed. */
  async refresh(task: Task, options: { signal?: AbortSignal } = {}): Promise<Task> {
    const { path } = ifUnchanged(task);
    try {
      const headers = { 'If-None-Match': task.etag };
      return (await this.getTask<true>({ ...options, path, headers })).data;
    } catch (error) {
      if (error instanceof ProblemError && error.status === 304) return task;
      throw error;
    }
  }

  /** Moves a task directly after another one: to its list, the inbox or its parent. */
  moveAfter(task: Task, previous: Task, options: { signal?: AbortSignal } = {}): Promise<Task> {
    return this.#move(task, previous.id, previous, options);
  }

  /**
   * Moves a task directly before another one: to its list, the inbox or its parent. `siblings` are the
   * tasks there in the order of `position`, for example those that are displayed.
   */
  async moveBefore(
    task: Task,
    next: Task,
    siblings: readonly Task[],
    options: { signal?: AbortSignal } = {},
  ): Promise<Task> {
    const others = siblings.filter(({ id }) => id !== task.id);
    const index = others.findIndex(({ id }) => id === next.id);
    if (index < 0) throw new RangeError('moveBefore needs another task as `next`, from `siblings`');
    return this.#move(task, others[index - 1]?.id ?? null, next, options);
  }

  /** Adds labels to a task and keeps its other labels, even if another client changes them. */
  addLabels(task: Task, labels: readonly Label[], options: { signal?: AbortSignal } = {}) {
    return this.#changeLabels(task, (current) => [...new Set([...current, ...labels])], options);
  }

  /** Removes labels from a task and keeps its other labels, even if another client changes them. */
  removeLabels(task: Task, labels: readonly Label[], options: { signal?: AbortSignal } = {}) {
    return this.#changeLabels(
      task,
      (current) => current.filter((label) => !labels.includes(label)),
      options,
    );
  }

  /** Returns the lines of the export as text. With `parseAs: 'stream'`, `data` is a stream of bytes. */
  override exportUser<ThrowOnError extends boolean = true>(
    options: Options<ExportUserData, ThrowOnError>,
  ) {
    return super.exportUser<ThrowOnError>({ parseAs: 'text', ...options });
  }

  /** Returns the contract as YAML text. This package has no YAML parser. */
  override getContractYaml<ThrowOnError extends boolean = true>(
    options?: Options<GetContractYamlData, ThrowOnError>,
  ) {
    return super.getContractYaml<ThrowOnError>({ ...options, parseAs: 'text' });
  }

  async #move(
    task: Task,
    after_id: string | null,
    { list_id, parent_id }: Task,
    options: { signal?: AbortSignal },
  ): Promise<Task> {
    const { path } = ifUnchanged(task);
    const body = { after_id, list_id, parent_id };
    return (await this.moveTask<true>({ ...options, path, body })).data;
  }

  async #changeLabels(
    task: Task,
    change: (labels: Label[]) => Label[],
    options: { signal?: AbortSignal },
  ): Promise<Task> {
    let current = task;
    for (let attempt = 1; ; attempt += 1) {
      const labels = change(current.labels);
      // `{}` changes nothing, and fails with 412 if `current` is outdated.
      const body = labels.length === current.labels.length ? {} : { labels };
      try {
        return (await this.updateTask<true>({ ...options, ...ifUnchanged(current), body })).data;
      } catch (error) {
        const isOutdated = error instanceof ProblemError && error.status === 412;
        if (!isOutdated || attempt === MAX_LABEL_ATTEMPTS) throw error;
      }
      current = await this.refresh(current, options);
    }
  }
}

function withoutEmptySearch<Data extends { query?: { q?: string } }>(options: Data): Data {
  return { ...options, query: options.query && { ...options.query, q: options.query.q || undefined } };
}

/** Options for a request that fails with 412 if the task or list has changed since it was read. */
export function ifUnchanged(task: Task): ConditionalOptions<'task_id'>;
export function ifUnchanged(list: TaskList): ConditionalOptions<'list_id'>;
export function ifUnchanged(item: Task | TaskList) {
  const id = 'name' in item ? { list_id: item.id } : { task_id: item.id };
  return { path: { user_id: item.user_id, ...id }, headers: { 'If-Match': item.etag } };
}

type ConditionalOptions<Id extends string> = {
  path: { user_id: string } & Record<Id, string>;
  headers: { 'If-Match': string };
};

/** Options for `replaceTask` with these changes, which fails with 412 like `ifUnchanged`. */
export function toReplace(task: Task, changes: Partial<TaskReplace> = {}) {
  const { title, description, completed, list_id, parent_id, priority, due, labels } = task;
  const body: Required<TaskReplace> = {
    title,
    description,
    completed,
    list_id,
    parent_id,
    priority,
    due,
    labels,
    ...changes,
  };
  return { ...ifUnchanged(task), body };
}
