import type { FieldError, Problem } from './generated/index.js';

/**
 * The answer to a request that did not succeed. It is the contract's `Problem`, and where another
 * server answered something else, such as a proxy's HTML, its members are made from the response.
 */
export class ProblemError extends Error implements Problem {
  override readonly name = 'ProblemError';
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly instance: string;
  readonly trace_id: string | null;
  readonly errors: Array<FieldError>;
  /** `X-Request-ID`, which finds the request in the service's log. */
  readonly requestId: string | null;
  /** `Retry-After`, in seconds from now. */
  readonly retryAfter: number | null;

  constructor(
    readonly response: Response,
    /** The body as it came: JSON that was parsed, else text. */
    readonly body: unknown,
  ) {
    const given = problemIn(response, body);
    const title = text(given.title) ?? (response.statusText || `HTTP ${response.status}`);
    const detail = text(given.detail) ?? '';
    const fault = firstFault(given.errors);
    super([title, detail && `: ${detail}`, fault && ` (${fault})`].join(''));
    this.type = text(given.type) ?? 'about:blank';
    this.title = title;
    this.status = response.status;
    this.detail = detail;
    this.requestId = response.headers.get('X-Request-ID');
    this.instance = text(given.instance) ?? this.requestId ?? '';
    this.trace_id = text(given.trace_id) ?? null;
    this.errors = Array.isArray(given.errors) ? (given.errors as Array<FieldError>) : [];
    this.retryAfter = seconds(response.headers.get('Retry-After'));
  }
}

function problemIn(response: Response, body: unknown): Partial<Record<keyof Problem, unknown>> {
  const mediaType = response.headers.get('Content-Type')?.split(';')[0]?.trim().toLowerCase();
  const isProblem = mediaType === 'application/problem+json' && typeof body === 'object';
  return isProblem ? (body ?? {}) : {};
}

/** The place and the detail of the first of `errors`, if there is one. */
function firstFault(errors: unknown): string {
  const fault: unknown = Array.isArray(errors) ? errors[0] : undefined;
  if (typeof fault !== 'object' || fault === null) return '';
  const { pointer, parameter, detail } = fault as Partial<Record<keyof FieldError, unknown>>;
  return [text(pointer) ?? text(parameter), text(detail)].filter(Boolean).join(': ');
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

/** The service sends seconds; a proxy may send a date. */
export function seconds(retryAfter: string | null): number | null {
  if (retryAfter === null) return null;
  if (/^\d+$/.test(retryAfter)) return Number(retryAfter);
  const wait = Math.ceil((Date.parse(retryAfter) - Date.now()) / 1000);
  return Number.isNaN(wait) ? null : Math.max(0, wait);
}
