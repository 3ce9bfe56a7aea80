import type { Task, TaskPage } from './generated/index.js';

/**
 * Iterates over every task of a list and fetches pages on demand. It keeps its position: after an error
 * or a `break`, another `for await` over the same object continues with the next task.
 */
export class TaskList implements AsyncIterableIterator<Task> {
  #tasks: Task[] = [];
  #cursor: string | null | undefined;
  #last: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly read: (cursor: string | undefined) => Promise<TaskPage>,
    private readonly signal?: AbortSignal | null,
  ) {}

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<IteratorResult<Task, undefined>> {
    // Calls run one after the other, so that two do not read the same page.
    const next = this.#last.then(() => this.#next());
    this.#last = next.catch(() => undefined);
    return next;
  }

  async #next(): Promise<IteratorResult<Task, undefined>> {
    while (this.#tasks.length === 0 && this.#cursor !== null) {
      const page = await this.read(this.#cursor);
      this.#tasks = [...page.items];
      this.#cursor = page.next_cursor;
    }
    this.signal?.throwIfAborted();
    const value = this.#tasks.shift();
    return value ? { done: false, value } : { done: true, value: undefined };
  }
}
