import type { FieldError, Problem, Task, TaskBatch, TaskBatchCreate } from './generated/index.js';

type Changes = Required<TaskBatch>;

/** A rejected change of a batch, with one of its errors. */
export type RejectedChange = {
  [Operation in keyof Changes]: {
    operation: Operation;
    /** The number of the change among those of the same operation, from 0. */
    index: number;
    change: Changes[Operation][number];
    error: FieldError;
  };
}[keyof Changes];

/**
 * Returns the changes that the `errors` of a problem name by pointers such as `/update/3`, one for each
 * error. The `type` of the problem applies to all of them.
 */
export function rejectedChanges(
  problem: Pick<Problem, 'errors'>,
  batch: TaskBatch,
): RejectedChange[] {
  return problem.errors.flatMap((error) => {
    const [, operation, number] = /^\/(create|update|delete)\/(\d+)/.exec(error.pointer ?? '') ?? [];
    const index = Number(number);
    const change = operation && batch[operation as keyof TaskBatch]?.[index];
    return change ? [{ operation, index, change, error } as RejectedChange] : [];
  });
}

/**
 * Returns a change for `changeTasks` that creates a deleted task again. It keeps the ID, the times of
 * creation and completion, and every property that a client can set. `position` is again that of the
 * creation, and `updated_at` and `etag` are new.
 */
export function toCreate(task: Task): TaskBatchCreate {
  const { id, created_at, completed, completed_at, title, description } = task;
  const { list_id, parent_id, priority, due, labels } = task;
  const times = { created_at, completed, completed_at };
  return { id, ...times, title, description, list_id, parent_id, priority, due, labels };
}
