// What the uses of the package have in common.
import { ProblemError, TasksApi } from 'tasks-api-client';
import type { FieldError, Problem } from 'tasks-api-client';

/**
 * URLs: a service, one without a database, one with a concurrency limit of 1, one that requests to
 * `control` stop and start, a proxy, and a closed port.
 */
export type URLs = Record<
  'service' | 'down' | 'narrow' | 'restarted' | 'control' | 'proxy' | 'nobody',
  string
>;

/** Returns a new user of a service, with a log of the user's requests. */
export function arrive(baseUrl: string) {
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
export async function thrownBy(call: Promise<unknown>) {
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

/** An injected failure of a request: a problem, a status, or no response. */
export type ProblemFailure = { status: number; type?: string; after?: string };
export type Failure = ProblemFailure | 'no response' | 'lost response';

/** Returns a user whose first requests fail like this. */
export function withFailures(baseUrl: string, failures: Failure[], retries?: number) {
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
export async function withoutWaiting<T>(call: () => Promise<T>) {
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
