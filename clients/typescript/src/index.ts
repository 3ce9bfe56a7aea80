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

/** Where the service is, and what goes with every request: headers, credentials, a `fetch`. */
export type TasksApiConfig = Omit<Config, 'baseUrl' | 'responseStyle' | 'throwOnError'> & {
  /** The service's address, such as `https://tasks.example.com`, or on a page of its own `/`. */
  baseUrl: string;
  /**
   * How often a request is sent again (0 when absent). Every request is where the service is
   * overloaded. GET, PUT, and POST with an `Idempotency-Key`, also are after a network error, 502,
   * 503 and 504. Waits for `Retry-After` and a random time. A `fetch` given to a single call has no retries.
   */
  retries?: number;
};

/** The filters and the order of a list. */
export type TaskQuery = Omit<NonNullable<ListTasksData['query']>, 'cursor'>;

/** Every operation of the contract. What is not a success is thrown as a `ProblemError`. */
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
      // An Error comes from fetch itself; what an abort throws can be anything.
      const isAnswer = response && !request?.signal.aborted && !(error instanceof Error);
      return isAnswer ? new ProblemError(response, error) : error;
    });
    super({ client });
  }

  /** One page of a list. An empty `q` is left out: a search field that is empty filters nothing. */
  override listTasks<ThrowOnError extends boolean = true>(
    options: Options<ListTasksData, ThrowOnError>,
  ) {
    const query = options.query && { ...options.query, q: options.query.q || undefined };
    return super.listTasks<ThrowOnError>({ ...options, query });
  }

  /** Every task of a list, page after page as they are needed; `limit` is the size of a page. */
  allTasks(
    options: Omit<Options<ListTasksData, true>, 'query'> & { query?: TaskQuery },
  ): TaskList {
    return new TaskList(async (cursor) => {
      const query: ListTasksData['query'] = { ...options.query, cursor };
      return (await this.listTasks<true>({ ...options, query })).data;
    }, options.signal);
  }

  /** The task as it is now, and the very same object where it has not changed. */
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

  /** The contract as YAML, which is text: no parser comes with this package. */
  override getContractYaml<ThrowOnError extends boolean = true>(
    options?: Options<GetContractYamlData, ThrowOnError>,
  ) {
    return super.getContractYaml<ThrowOnError>({ ...options, parseAs: 'text' });
  }
}

/** The task's path, on the condition that nobody has changed the task since; else 412. */
export function ifUnchanged(task: Task) {
  return {
    path: { user_id: task.user_id, task_id: task.id },
    headers: { 'If-Match': task.etag },
  };
}

/** A replacement of the task with these changes, on the condition of `ifUnchanged`. */
export function toReplace(task: Task, changes: Partial<TaskReplace> = {}) {
  const { title, description, completed } = task;
  return { ...ifUnchanged(task), body: { title, description, completed, ...changes } };
}
