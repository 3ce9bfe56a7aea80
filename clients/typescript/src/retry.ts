import { seconds } from './problem.js';

const FIRST_WAIT = 500; // milliseconds: maximum random wait of the first retry, added to `Retry-After`
const LONGEST_WAIT = 60; // seconds: with a longer `Retry-After`, the response is returned
const UNAVAILABLE = [502, 503, 504];

/**
 * Returns a `fetch` with up to `retries` retries. It retries requests that had no effect
 * (`/problems/overloaded`, `/problems/idempotency-key-in-use`). Without a response, and after 502,
 * 503 or 504, the outcome is unknown, so it retries only repeatable requests.
 */
export function retrying(send: typeof fetch, retries: number): typeof fetch {
  return async (input, init) => {
    const request = new Request(input, init);
    let unknown: Outcome | undefined;
    for (let retry = 0; ; retry += 1) {
      const outcome = await attempt(send, request);
      const { response } = outcome;
      const hadNoEffect = await isRejected(response);
      const repeat = hadNoEffect || (isOutage(response) && isRepeatable(request));
      const wait = seconds(response?.headers.get('Retry-After') ?? null) ?? 0;
      if (!repeat || retry >= retries || wait > LONGEST_WAIT) {
        // An earlier attempt may have succeeded, so that the precondition is now false.
        const hidesUnknown = hadNoEffect || response?.status === 412;
        return responseOf(unknown && hidesUnknown ? unknown : outcome);
      }
      discard(hadNoEffect ? outcome : unknown);
      if (!hadNoEffect) unknown = outcome;
      // Clients that were rejected together must not retry together.
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

function responseOf({ response, error }: Outcome): Response {
  if (response) return response;
  throw error;
}

/** Cancels the body, because an unread body would keep the connection open. */
function discard(outcome: Outcome | undefined): void {
  outcome?.response?.body?.cancel().catch(() => undefined);
}

async function isRejected(response: Response | undefined): Promise<boolean> {
  if (response?.status !== 503 && response?.status !== 409) return false;
  const body = await response.clone().text();
  return /"type":\s*"\/problems\/(overloaded|idempotency-key-in-use)"/.test(body);
}

function isOutage(response: Response | undefined): boolean {
  return !response || UNAVAILABLE.includes(response.status);
}

function isRepeatable({ method, url, headers }: Request): boolean {
  if (method === 'POST') return headers.has('Idempotency-Key') || url.endsWith('/move');
  return method === 'GET' || method === 'PUT';
}

/** Waits for a time, and throws the reason if `signal` is aborted. */
export function sleep(milliseconds: number, signal?: AbortSignal | null): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', abort);
      resolve();
    }, milliseconds);
    signal?.addEventListener('abort', abort, { once: true });
    if (signal?.aborted) abort();
  });
}
