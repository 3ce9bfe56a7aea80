import { seconds } from './problem.js';

const FIRST_WAIT = 500; // milliseconds: the most that the first retry waits beyond `Retry-After`
const LONGEST_WAIT = 60; // seconds: a longer `Retry-After` is an answer for the caller
const UNAVAILABLE = [502, 503, 504];

/**
 * A `fetch` that sends a request up to `retries` more times. It does so where nothing was done
 * (`/problems/overloaded`, `/problems/idempotency-key-in-use`), and, for requests that may be
 * repeated, where the outcome is unknown: no response, 502, 503 or 504.
 */
export function retrying(send: typeof fetch, retries: number): typeof fetch {
  return async (input, init) => {
    const request = new Request(input, init);
    let unknown: Outcome | undefined;
    for (let retry = 0; ; retry += 1) {
      const outcome = await attempt(send, request);
      const { response } = outcome;
      const nothingDone = await isUndone(response);
      const repeat = nothingDone || (isOutage(response) && isRepeatable(request));
      const wait = seconds(response?.headers.get('Retry-After') ?? null) ?? 0;
      if (!repeat || retry >= retries || wait > LONGEST_WAIT) {
        // An earlier attempt may have made the change, and with it the precondition false.
        const hidesUnknown = nothingDone || response?.status === 412;
        return answer(unknown && hidesUnknown ? unknown : outcome);
      }
      discard(nothingDone ? outcome : unknown);
      if (!nothingDone) unknown = outcome;
      // Clients that were rejected together must not come back together.
      await sleep(wait * 1000 + Math.random() * FIRST_WAIT * 2 ** retry, request.signal);
    }
  };
}

type Outcome = { response?: Response; error?: unknown };

async function attempt(send: typeof fetch, request: Request): Promise<Outcome> {
  try {
    return { response: await send(request.clone()) };
  } catch (error) {
    request.signal.throwIfAborted();
    return { error };
  }
}

function answer({ response, error }: Outcome): Response {
  if (response) return response;
  throw error;
}

/** An unread body would keep the connection. */
function discard(outcome: Outcome | undefined): void {
  outcome?.response?.body?.cancel().catch(() => undefined);
}

async function isUndone(response: Response | undefined): Promise<boolean> {
  if (response?.status !== 503 && response?.status !== 409) return false;
  const body = await response.clone().text();
  return /"type":\s*"\/problems\/(overloaded|idempotency-key-in-use)"/.test(body);
}

function isOutage(response: Response | undefined): boolean {
  return !response || UNAVAILABLE.includes(response.status);
}

function isRepeatable({ method, headers }: Request): boolean {
  return method === 'GET' || method === 'PUT' || (method === 'POST' && headers.has('Idempotency-Key'));
}

function sleep(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', abort);
      resolve();
    }, milliseconds);
    signal.addEventListener('abort', abort, { once: true });
    if (signal.aborted) abort();
  });
}
