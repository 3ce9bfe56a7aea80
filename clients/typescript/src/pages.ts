/** A page of a list, and the cursor of the next one. */
type Page<Item> = { items: Item[]; next_cursor: string | null };

/**
 * Iterates over every item of a list and fetches pages on demand. It keeps its position: after an error
 * or a `break`, another `for await` over the same object continues with the next item.
 */
export class PagedIterator<Item extends object> implements AsyncIterableIterator<Item> {
  #items: Item[] = [];
  #cursor: string | null | undefined;
  #last: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly read: (cursor: string | undefined) => Promise<Page<Item>>,
    private readonly signal?: AbortSignal | null,
  ) {}

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<IteratorResult<Item, undefined>> {
    // Calls run one after the other, so that two do not read the same page.
    const next = this.#last.then(() => this.#next());
    this.#last = next.catch(() => undefined);
    return next;
  }

  async #next(): Promise<IteratorResult<Item, undefined>> {
    while (this.#items.length === 0 && this.#cursor !== null) {
      const page = await this.read(this.#cursor);
      this.#items = [...page.items];
      this.#cursor = page.next_cursor;
    }
    this.signal?.throwIfAborted();
    const value = this.#items.shift();
    return value ? { done: false, value } : { done: true, value: undefined };
  }
}
