// A calendar date is a string such as `2026-11-24`. A `Date` is a point in time, whose day depends on
// the time zone.
import type { DueInput } from './generated/index.js';

/**
 * Returns a due date: a day, with a local time such as `17:30` and the name of a time zone such as
 * `Europe/Berlin` if they are given.
 */
export function dueOn(
  date: string,
  time: string | null = null,
  timezone: string | null = null,
): DueInput {
  return { date, time, timezone };
}

/** Returns the date that it is now, or at the time `at`, in a time zone (default: of the device). */
export function today(timezone?: string, at: Date = new Date()): string {
  const format = new Intl.DateTimeFormat('en-u-ca-gregory-nu-latn', {
    timeZone: timezone,
    year: 'numeric',
    month: '2-digit',
    day: '2-digit',
  });
  const parts = format.formatToParts(at).map(({ type, value }) => [type, value]);
  const { year, month, day } = Object.fromEntries(parts) as Record<string, string>;
  return `${year}-${month}-${day}`;
}

/** Returns the date this number of days later, or earlier if the number is negative. */
export function addDays(date: string, days: number): string {
  const start = new Date(`${date}T00:00:00Z`); // days of UTC have 24 hours
  start.setUTCDate(start.getUTCDate() + days);
  return start.toISOString().slice(0, 10);
}
