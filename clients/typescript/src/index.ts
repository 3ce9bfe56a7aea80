import { createClient, createConfig, type Config } from './generated/client/index.js';
import {
  Operations,
  type GetContractYamlData,
  type ListTasksData,
  type Options,
  type Task,
  type TaskPage,
} from './generated/index.js';
import { ProblemError } from './problem.js';

export type * from './generated/types.gen.js';
export type { Options } from './generated/index.js';
export { ProblemError } from './problem.js';

/** Where the service is, and what goes with every request: headers, credentials, a `fetch`. */
export type TasksApiConfig = Omit<Config, 'responseStyle' | 'throwOnError'>;

/** The filters and the order of a list. */
export type TaskQuery = Omit<NonNullable<ListTasksData['query']>, 'cursor'>;

/** Every operation of the contract. What is not a success is thrown as a `ProblemError`. */
export class TasksApi extends Operations {
  constructor(config: TasksApiConfig = {}) {
    const client = createClient(createConfig({ ...config, throwOnError: true }));
    client.interceptors.error.use((error, response, request) => {
      // An Error comes from fetch itself; what an abort throws can be anything.
      const isAnswer = response && !request?.signal.aborted && !(error instanceof Error);
      return isAnswer ? new ProblemError(response, error) : error;
    });
    super({ client });
  }

  /** Every task of a list, page after page as they are needed; `limit` is the size of a page. */
  async *allTasks(
    options: Omit<Options<ListTasksData, true>, 'query'> & { query?: TaskQuery },
  ): AsyncGenerator<Task, void, undefined> {
    let cursor: string | null = null;
    do {
      const query: ListTasksData['query'] = { ...options.query, cursor: cursor ?? undefined };
      const page: TaskPage = (await this.listTasks<true>({ ...options, query })).data;
      for (const task of page.items) {
        options.signal?.throwIfAborted();
        yield task;
      }
      cursor = page.next_cursor;
    } while (cursor !== null);
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

  // By its media type the document would be handed out as a Blob, which its type does not say.
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
