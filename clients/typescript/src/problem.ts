import type { FieldError, Problem } from './generated/index.js';

/**
 * An error response. It has the properties of the contract's `Problem`. If the response is not a
 * problem, such as HTML from a proxy, the properties are derived from the response.
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
  /** `X-Request-ID`, which identifies the request in the service's log. */
  readonly requestId: string | null;
  /** `Retry-After`, in seconds from now. */
  readonly retryAfter: number | null;

  constructor(
    readonly response: Response,
    /** The body: parsed JSON, or text. */
    readonly body: unknown,
  ) {
    const problem = problemIn(response, body);
    const title = text(problem.title) ?? (response.statusText || `HTTP ${response.status}`);
    const detail = text(problem.detail) ?? '';
    const error = formatFirstError(problem.errors);
    super([title, detail && `: ${detail}`, error && ` (${error})`].join(''));
    this.type = text(problem.type) ?? 'about:blank';
    this.title = title;
    this.status = response.status;
    this.detail = detail;
    this.requestId = response.headers.get('X-Request-ID');
    this.instance = text(problem.instance) ?? this.requestId ?? '';
    this.trace_id = text(problem.trace_id) ?? null;
    this.errors = Array.isArray(problem.errors) ? (problem.errors as Array<FieldError>) : [];
    this.retryAfter = seconds(response.headers.get('Retry-After'));
  }
}

function problemIn(response: Response, body: unknown): Partial<Record<keyof Problem, unknown>> {
  const mediaType = response.headers.get('Content-Type')?.split(';')[0]?.trim().toLowerCase();
  const isProblem = mediaType === 'application/problem+json' && typeof body === 'object';
  return isProblem ? (body ?? {}) : {};
}

/** Formats the location and detail of the first error, if there is one. */
function formatFirstError(errors: unknown): string {
  const error: unknown = Array.isArray(errors) ? errors[0] : undefined;
  if (typeof error !== 'object' || error === null) return '';
  const { pointer, parameter, detail } = error as Partial<Record<keyof FieldError, unknown>>;
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
