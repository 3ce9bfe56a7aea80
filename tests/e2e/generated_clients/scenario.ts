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

export interface ProblemType {
  type: string;
  title: string;
  status: number;
  detail: string;
  instance: string;
  trace_id: string | null;
  errors: { pointer: string | null; parameter: string | null; detail: string }[];
}
