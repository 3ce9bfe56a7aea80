import { createClient, createConfig, type Config } from './generated/client/index.js';
import {
  Operations,
  type GetContractYamlData,
  type ListTasksData,
  type Options,
  type Task,
  type TaskReplace,
} from './generated/index.js';
import { TaskList } from './list.js';
import { ProblemError } from './problem.js';
import { retrying } from './retry.js';

export type * from './generated/types.gen.js';
export type { Options } from './generated/index.js';
export type { TaskList } from './list.js';
export { ProblemError } from './problem.js';

/** The address of the service, and the options of every request: headers, credentials, a `fetch`. */
export type TasksApiConfig = Omit<Config, 'baseUrl' | 'responseStyle' | 'throwOnError'> & {
  /** The address of the service, such as `https://tasks.example.com`, or `/` for the page's origin. */
  baseUrl: string;
  /**
   * Maximum number of retries of a request (default 0). If the service is overloaded, every request
   * is retried. After a network error, 502, 503 or 504, only GET, PUT, and POST with an
   * `Idempotency-Key` are retried. Each retry waits for `Retry-After` and a random time. Calls with
   * a `fetch` option are not retried.
   */
  retries?: number;
};

/** The filters and the order of a list. */
export type TaskQuery = Omit<NonNullable<ListTasksData['query']>, 'cursor'>;

/** Every operation of the contract. Error responses are thrown as a `ProblemError`. */
export class TasksApi extends Operations {
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
      // `fetch` throws an Error, and an abort throws its reason, which can be any value.
      const isResponse = response && !request?.signal.aborted && !(error instanceof Error);
      return isResponse ? new ProblemError(response, error) : error;
    });
    super({ client });
  }

  /** Returns one page of a list. An empty `q` is ignored. */
  override listTasks<ThrowOnError extends boolean = true>(
    options: Options<ListTasksData, ThrowOnError>,
  ) {
    const query = options.query && { ...options.query, q: options.query.q || undefined };
    return super.listTasks<ThrowOnError>({ ...options, query });
  }

  /** Iterates over every task of a list and fetches pages on demand. `limit` is the page size. */
  allTasks(
    options: Omit<Options<ListTasksData, true>, 'query'> & { query?: TaskQuery },
  ): TaskList {
    return new TaskList(async (cursor) => {
      const query: ListTasksData['query'] = { ...options.query, cursor };
      return (await this.listTasks<true>({ ...options, query })).data;
    }, options.signal);
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

  /** Returns the contract as YAML text. This package has no YAML parser. */
  override getContractYaml<ThrowOnError extends boolean = true>(
    options?: Options<GetContractYamlData, ThrowOnError>,
  ) {
    return super.getContractYaml<ThrowOnError>({ ...options, parseAs: 'text' });
  }
}

/** Options for a request that fails with 412 if the task has changed since it was read. */
export function ifUnchanged(task: Task) {
  return {
    path: { user_id: task.user_id, task_id: task.id },
    headers: { 'If-Match': task.etag },
  };
}

/** Options for `replaceTask` with these changes, which fails with 412 like `ifUnchanged`. */
export function toReplace(task: Task, changes: Partial<TaskReplace> = {}) {
  const { title, description, completed } = task;
  return { ...ifUnchanged(task), body: { title, description, completed, ...changes } };
}
