import type { Change, ChangePage, Task, TaskList } from './generated/index.js';
import { ProblemError } from './problem.js';
import { sleep } from './retry.js';

const FIRST_WAIT = 500; // milliseconds: maximum random wait after the first error
const LONGEST_WAIT = 60_000; // milliseconds: the same after many errors, and maximum of `Retry-After`
const IDLE_WAIT = 1000; // milliseconds: maximum random wait after a response without changes
const RESTART = ['/problems/token-expired', '/problems/invalid-token'];

/** A local copy of the tasks and lists of one user. `sync` waits for each call. */
export interface SyncStore {
  /** Returns the stored token, or null if there is none. */
  getToken(): Promise<string | null> | string | null;
  /**
   * Stores or deletes each item and stores `next_since` as the token, atomically. If `has_more` is
   * false, it also deletes the items that were neither stored nor deleted since the last `reset`.
   */
  apply(page: ChangePage): Promise<void> | void;
  /** Deletes the token and keeps the items. They remain visible until a walk is complete. */
  reset(): Promise<void> | void;
}

/** The result of one request of `sync`. */
export type SyncResult =
  /** The changes are in the store. `complete` is false if the service already knows more of them. */
  | { online: true; changes: Change[]; complete: boolean }
  /** The request failed. It is sent again after a wait. */
  | { online: false; error: unknown };

/** A copy in memory. `JSON.stringify` saves it, and the constructor takes the parsed value. */
export class MemoryStore implements SyncStore {
  #token: string | null;
  #items: Map<string, Change>;
  #outdated: Set<string>;

  constructor(saved?: SavedCopy | null) {
    this.#token = saved?.token ?? null;
    this.#items = new Map(saved?.items.map((item) => [keyOf(item), item]));
    this.#outdated = new Set(saved?.outdated);
  }

  get tasks(): Task[] {
    return [...this.#items.values()].flatMap(({ task }) => task ?? []);
  }

  get lists(): TaskList[] {
    return [...this.#items.values()].flatMap(({ list }) => list ?? []);
  }

  getToken(): string | null {
    return this.#token;
  }

  apply({ items, next_since, has_more }: ChangePage): void {
    for (const item of items) {
      if (item.deleted) this.#items.delete(keyOf(item));
      else this.#items.set(keyOf(item), item);
      this.#outdated.delete(keyOf(item));
    }
    if (!has_more) {
      for (const key of this.#outdated) this.#items.delete(key);
      this.#outdated.clear();
    }
    this.#token = next_since;
  }

  reset(): void {
    this.#token = null;
    this.#outdated = new Set(this.#items.keys());
  }

  toJSON(): SavedCopy {
    return { token: this.#token, items: [...this.#items.values()], outdated: [...this.#outdated] };
  }
}

/** What a `MemoryStore` saves. */
export type SavedCopy = { token: string | null; items: Change[]; outdated: string[] };

// A task and a list may have the same ID.
function keyOf({ kind, id }: Change): string {
  return `${kind}/${id}`;
}

/** Reads a page of changes. If `wait` is true, the request waits for a change. */
export type ReadChanges = (since: string | undefined, wait: boolean) => Promise<ChangePage>;

/** Applies all changes to a store, and continues until an error that a retry cannot repair. */
export async function* followChanges(
  read: ReadChanges,
  store: SyncStore,
  signal?: AbortSignal | null,
): AsyncGenerator<SyncResult, never, void> {
  // The first request, and the first after an error, do not wait: their result is displayed.
  let wait = false;
  for (let failures = 0; ; ) {
    signal?.throwIfAborted();
    const since = (await store.getToken()) ?? undefined;
    let page: ChangePage;
    try {
      page = await read(since, wait);
    } catch (error) {
      signal?.throwIfAborted();
      wait = false;
      if (error instanceof ProblemError && RESTART.includes(error.type)) {
        await store.reset();
        continue;
      }
      if (!isTemporary(error)) throw error;
      yield { online: false, error };
      await untilOnline(retryWait(error, failures), signal);
      failures += 1;
      continue;
    }
    failures = 0;
    await store.apply(page);
    const complete = !page.has_more;
    yield { online: true, changes: page.items, complete };
    // A service that is stopping responds immediately. Its clients must not return together.
    if (complete && page.items.length === 0) await sleep(Math.random() * IDLE_WAIT, signal);
    wait = complete;
  }
}

/** Returns whether an error can end without a change of the request. */
function isTemporary(error: unknown): boolean {
  if (!(error instanceof ProblemError)) return true;
  return error.status >= 500 || error.status === 408 || error.status === 429;
}

/** Returns milliseconds: `Retry-After` and a random time, which grows with each failure. */
function retryWait(error: unknown, failures: number): number {
  const retryAfter = error instanceof ProblemError ? (error.retryAfter ?? 0) : 0;
  const random = Math.random() * Math.min(FIRST_WAIT * 2 ** failures, LONGEST_WAIT);
  return Math.min(retryAfter * 1000, LONGEST_WAIT) + random;
}

/** Waits for a time, or until the browser reports a network. */
async function untilOnline(milliseconds: number, signal?: AbortSignal | null): Promise<void> {
  const network = new AbortController();
  const stop = () => network.abort();
  globalThis.addEventListener?.('online', stop);
  try {
    const signals = signal ? [signal, network.signal] : [network.signal];
    await sleep(milliseconds, AbortSignal.any(signals));
  } catch {
    signal?.throwIfAborted();
  } finally {
    globalThis.removeEventListener?.('online', stop);
  }
}
