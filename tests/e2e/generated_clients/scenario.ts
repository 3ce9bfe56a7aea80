// Shared by the programs of the TypeScript scenarios: the service's URL, the output of a step, and
// the types that a client must have. The steps and their values are in scenario.py.

export const url = variable("TASKS_URL");
export const user = variable("TASKS_USER");
export const absent = "00000000-0000-4000-8000-000000000000";

function variable(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

export function step(name: string, seen: Record<string, unknown>): void {
  console.log(JSON.stringify({ step: name, ...seen }));
}

export function fail(seen: unknown): never {
  throw new Error(`not what the step is about: ${JSON.stringify(seen)}`);
}

// true only for identical types, including modifiers; `string` and `string | null` differ.
export type Same<A, B> =
  (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;

export function holds<_ extends true>(): void {}

// The properties of contract 1.0.0. A later contract may add properties.
export interface TaskType {
  id: string;
  user_id: string;
  title: string;
  description: string | null;
  completed: boolean;
  completed_at: string | null;
  created_at: string;
  updated_at: string;
  etag: string;
}

export interface PatchType {
  title?: string;
  description?: string | null;
  completed?: boolean;
}

// The properties of contract 1.1.0.
export interface OrganizedTask extends TaskType {
  list_id: string | null;
  parent_id: string | null;
  priority: PriorityType;
  due: DueType | null;
  due_at: string | null;
  labels: string[];
  position: string;
}

export interface OrganizedPatch extends PatchType {
  list_id?: string | null;
  parent_id?: string | null;
  priority?: PriorityType;
  due?: DueType | null;
  labels?: string[];
}

export type PriorityType = "none" | "low" | "medium" | "high" | "urgent";

export interface DueType {
  date: string;
  time: string | null;
  timezone: string | null;
}

export const due: DueType = { date: "2026-11-24", time: "17:30", timezone: "Europe/Berlin" };

export function unixTime(instant: string | Date | null | undefined): number {
  return new Date(instant ?? NaN).getTime() / 1000;
}

// The operations of contract 1.2.0.
export interface ChangePageType {
  items: {
    kind: "task" | "list";
    id: string;
    deleted: boolean;
    task: { title: string } | null;
    list: { name: string } | null;
  }[];
  next_since: string;
  has_more: boolean;
}

export const eggsId = "0198c5a2-0000-7000-8000-000000000001";
export const createdAt = "2026-11-23T08:00:00Z";
export const completedAt = "2026-11-23T08:30:00Z";

// Read the changes since a token, or all of them, in pages of two.
export async function walk(
  read: (query: { limit: number; since?: string }) => Promise<ChangePageType>,
  since?: string,
): Promise<{ pages: number; items: unknown[]; since: string }> {
  const items: unknown[] = [];
  for (let pages = 1; ; pages += 1) {
    const page = await read({ limit: 2, ...(since && { since }) });
    items.push(
      ...page.items.map((each) => [
        each.kind,
        each.deleted,
        each.task?.title ?? each.list?.name ?? null,
      ]),
    );
    since = page.next_since;
    if (!page.has_more) return { pages, items, since };
  }
}

// The kinds of the lines of an export, and the number of lines in the last one.
export function summary(lines: string): { kinds: string[]; lines: number } {
  const parsed = lines
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as { kind: string; lines: number });
  return { kinds: parsed.map((line) => line.kind), lines: parsed.at(-1)?.lines ?? -1 };
}

export interface ProblemType {
  type: string;
  title: string;
  status: number;
  detail: string;
  instance: string;
  trace_id: string | null;
  errors: { pointer: string | null; parameter: string | null; detail: string }[];
}
