// Type errors. If the compiler accepts a line, the comment above it is an error.
import { MemoryStore, ProblemError, TasksApi, dueOn, ifUnchanged, rejectedChanges, toReplace } from 'tasks-api-client';
import type { Task, TaskList } from 'tasks-api-client';

const api = new TasksApi({ baseUrl: 'http://127.0.0.1:8000' });
const path = { user_id: 'alice' };
declare const task: Task;
declare const list: TaskList;
declare const error: ProblemError;
declare const store: MemoryStore;

export async function mistakes() {
  // @ts-expect-error: a task has a title
  await api.createTask({ path, body: {} });
  // @ts-expect-error: a task has no colour
  await api.createTask({ path, body: { title: 'Buy milk', colour: 'red' } });
  // @ts-expect-error: a list needs a user
  await api.listTasks({});
  // @ts-expect-error: invalid order
  await api.listTasks({ path, query: { order: 'random' } });
  // @ts-expect-error: the package manages the cursors
  api.allTasks({ path, query: { cursor: 'x' } });
  // @ts-expect-error: no such filter
  api.allTasks({ path, query: { done: true } });
  // @ts-expect-error: `completed` is never null
  await api.updateTask({ ...ifUnchanged(task), body: { completed: null } });
  // @ts-expect-error: a replacement is a whole task
  await api.replaceTask({ ...ifUnchanged(task), body: { title: 'Buy milk' } });
  // @ts-expect-error: a description may be null
  task.description.length;
  // @ts-expect-error: a status is a number
  error.status === '412';
  // @ts-expect-error: a field error has a pointer or a parameter
  error.errors[0].path;
  // @ts-expect-error: not every problem has a retry delay
  error.retryAfter + 1;
  // @ts-expect-error: the response style and error style are fixed
  new TasksApi({ baseUrl: '/', responseStyle: 'data' });
  // @ts-expect-error: a base URL is required
  new TasksApi({});
  // @ts-expect-error: a replacement has no colour
  toReplace(task, { colour: 'red' });
  // @ts-expect-error: a date is a string
  dueOn(new Date());
  // @ts-expect-error: a due date has a time and a time zone, which may be null
  await api.updateTask({ ...ifUnchanged(task), body: { due: { date: '2026-11-24' } } });
  // @ts-expect-error: not every task has a due date
  task.due.date;
  // @ts-expect-error: no such priority
  await api.createTask({ path, body: { title: 'Buy milk', priority: 'highest' } });
  // @ts-expect-error: the service computes the position
  await api.updateTask({ ...ifUnchanged(task), body: { position: '1' } });
  // @ts-expect-error: a move has a place
  await api.moveTask({ ...ifUnchanged(task), body: {} });
  // @ts-expect-error: a list is not a task
  await api.deleteTask(ifUnchanged(list));
  // @ts-expect-error: labels are separated by commas
  await api.listTasks({ path, query: { labels: ['errands', 'shop'] } });
  // @ts-expect-error: the package manages the tokens
  api.sync(store, { path, query: { since: 'x' } });
  // @ts-expect-error: a map is not a store
  api.sync(new Map(), { path });
  for await (const result of api.sync(store, { path })) {
    // @ts-expect-error: without a network there are no changes
    result.changes;
  }
  for (const rejected of rejectedChanges(error, { delete: [{ id: task.id }] })) {
    // @ts-expect-error: only a create and an update have a title
    rejected.change.title;
  }
  // @ts-expect-error: an update has an ID
  await api.changeTasks({ path, body: { update: [{ title: 'Buy milk' }] } });
  // @ts-expect-error: a list cannot be restored
  await api.restore(list);
}
