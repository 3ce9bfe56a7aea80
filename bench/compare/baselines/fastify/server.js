// Fastify with postgres.js: the same service in JavaScript.

import cluster from 'node:cluster';
import { createHash, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { STATUS_CODES } from 'node:http';

import Ajv from 'ajv';
import Fastify from 'fastify';
import postgres from 'postgres';
import { v7 as uuidv7 } from 'uuid';

const { DATABASE_URL, PORT, WORKERS = '1', POOL_SIZE = '10' } = process.env;

// --- schemas ---

const userId = { type: 'string', pattern: '^[A-Za-z0-9][A-Za-z0-9._:|@+-]{0,127}$' };
const uuid = { type: 'string', pattern: '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$' };
const title = { type: 'string', minLength: 1, maxLength: 500 };
const description = { type: 'string', maxLength: 16384, nullable: true };
const text = { type: 'string' };
const nullableText = { type: 'string', nullable: true };
const completed = { type: 'boolean' };
const priorities = ['none', 'low', 'medium', 'high', 'urgent']; // the database stores the index
const priority = { type: 'string', enum: priorities };
const reference = { ...uuid, nullable: true };

const due = {
  type: 'object',
  nullable: true,
  properties: {
    date: { type: 'string', pattern: '^[0-9]{4}-[0-9]{2}-[0-9]{2}$' }, // PostgreSQL checks the day
    time: { type: 'string', pattern: '^([01][0-9]|2[0-3]):[0-5][0-9]$', nullable: true },
    timezone: { type: 'string', maxLength: 64, nullable: true },
  },
  required: ['date', 'time', 'timezone'],
  additionalProperties: false,
};

const label = {
  type: 'string',
  minLength: 1,
  maxLength: 64,
  pattern: '^[^\\s,\\x00-\\x1F]([^,\\x00-\\x1F]*[^\\s,\\x00-\\x1F])?$',
};
const labels = { type: 'array', items: label, maxItems: 50, uniqueItems: true };

const userPath = { type: 'object', properties: { user_id: userId }, required: ['user_id'] };

const taskPath = {
  type: 'object',
  properties: { user_id: userId, task_id: uuid },
  required: ['user_id', 'task_id'],
};

const listQuery = {
  type: 'object',
  properties: {
    limit: { type: 'integer', minimum: 1, maximum: 200, default: 50 },
    cursor: text,
    q: { type: 'string', minLength: 1, maxLength: 200 },
    completed,
    list_id: uuid,
    labels: { type: 'string', minLength: 1 },
    sort: { type: 'string', enum: ['created_at', 'due', 'position'], default: 'created_at' },
    order: { type: 'string', enum: ['asc', 'desc'], default: 'desc' },
  },
};

const organization = {
  list_id: { ...reference, default: null },
  parent_id: { ...reference, default: null },
  priority: { ...priority, default: 'none' },
  due: { ...due, default: null },
  labels: { ...labels, default: [] },
};

const taskCreate = {
  type: 'object',
  properties: {
    title,
    description: { ...description, default: null },
    completed: { ...completed, default: false },
    ...organization,
  },
  required: ['title'],
  additionalProperties: false,
};

const taskReplace = {
  type: 'object',
  properties: { title, description, completed, ...organization },
  required: ['title', 'description', 'completed'],
  additionalProperties: false,
};

const taskPatch = {
  type: 'object',
  properties: {
    title,
    description,
    completed,
    list_id: reference,
    parent_id: reference,
    priority,
    due,
    labels,
  },
  additionalProperties: false,
};

const task = {
  type: 'object',
  properties: {
    id: text,
    user_id: text,
    title: text,
    description: nullableText,
    completed,
    completed_at: nullableText,
    list_id: nullableText,
    parent_id: nullableText,
    priority: text,
    due: { ...due, properties: { date: text, time: nullableText, timezone: nullableText } },
    due_at: nullableText,
    labels: { type: 'array', items: text },
    position: text,
    created_at: text,
    updated_at: text,
    etag: text,
  },
};

const taskPage = {
  type: 'object',
  properties: { items: { type: 'array', items: task }, next_cursor: nullableText },
};

// --- the database ---

// The socket directory is in the query. The parser rejects a URL without a host.
const url = new URL(DATABASE_URL.replace('@/', '@localhost/'));

const sql = postgres({
  host: url.searchParams.get('host') ?? url.hostname,
  port: url.searchParams.get('port') ?? (url.port || 5432),
  database: url.pathname.slice(1),
  username: decodeURIComponent(url.username),
  password: decodeURIComponent(url.password),
  max: Number(POOL_SIZE),
  connection: { TimeZone: 'UTC' },
  onnotice: () => {}, // a search without words causes a notice, which would be printed
  types: {
    // A Date has milliseconds, but the columns and the cursors have microseconds.
    date: {
      to: 1184,
      from: [1184],
      serialize: (timestamp) => timestamp,
      parse: (value) => `${value.slice(0, -'+00'.length).replace(' ', 'T')}Z`,
    },
    // A date, and a timestamp without a time zone.
    local: { to: 1114, from: [1082, 1114], serialize: (local) => local, parse: (value) => value },
  },
});

// The expressions of the indexes.
const position = sql`
  coalesce(position, lpad(trunc((extract(epoch from timezone('UTC', created_at)) + 62135596800)
    * 1000000)::text, 18, '0') || right(id::text, 8))`;
const dueKey = sql`
  coalesce(due_date + coalesce(due_time, '23:59:59'::time), 'infinity'::timestamp)`;
const prefix = sql`(left(encode(sha256(decode(user_id, 'escape')), 'hex'), 8) || ':')`;
const labelKeys = sql`string_to_array(${prefix} || replace(labels, ',', ',' || ${prefix}), ',')`;
const sortKeys = { created_at: sql`created_at`, due: dueKey, position };

const columns = sql`
  id, user_id, title, description, completed, completed_at, list_id, parent_id, priority,
  due_date, due_time, due_timezone, labels, created_at, updated_at, etag,
  (due_date + due_time) at time zone due_timezone as due_at, ${position} as position`;
// Always after the last change, even if the clock was set back.
const later = sql`greatest(now(), tasks.updated_at + interval '1 microsecond')`;
const createIdempotentlySql = readFileSync(new URL('../create_idempotently.sql', import.meta.url), 'utf8');

const entityTag = (version) => `"${version.replaceAll('-', '')}"`;

/** The task in a row of `columns`. */
function taskOf(row) {
  const { due_date: date, due_time: time, due_timezone: timezone } = row;
  return {
    ...row,
    priority: priorities[row.priority],
    due: date && { date, time: time && time.slice(0, 'hh:mm'.length), timezone },
    labels: row.labels === '' ? [] : row.labels.split(','),
    etag: entityTag(row.etag),
  };
}

const timezones = new Set();

/** Throws a problem if no time zone has this name. */
function checkTimezone(timeZone) {
  if (timeZone === null || timezones.has(timeZone)) {
    return;
  }
  try {
    Intl.DateTimeFormat('en', { timeZone });
  } catch {
    throw new ProblemError(409, 'This time zone does not exist.');
  }
  timezones.add(timeZone);
}

/** The columns of these properties, in the order of the statements; throws a problem. */
function columnsOf({ list_id, parent_id, priority, due, labels }) {
  const { date, time, timezone } = due ?? { date: null, time: null, timezone: null };
  checkTimezone(timezone);
  return {
    list_id,
    parent_id,
    depth: parent_id ? 1 : 0,
    priority: priorities.indexOf(priority),
    due_date: date,
    due_time: time,
    due_timezone: timezone,
    labels: labels?.toSorted().join(','),
  };
}

// The columns of each property.
const propertyColumns = {
  title: ['title'],
  description: ['description'],
  list_id: ['list_id'],
  parent_id: ['parent_id', 'depth'],
  priority: ['priority'],
  due: ['due_date', 'due_time', 'due_timezone'],
  labels: ['labels'],
};

/** The new `completed_at`. A completed task keeps its timestamp. */
const newCompletedAt = (done) =>
  sql`case when ${done} then coalesce(tasks.completed_at, ${later}) end`;

/** The prefix of a user's lexemes and labels in their indexes. */
const userPrefix = (user_id) => createHash('sha256').update(user_id).digest('hex').slice(0, 8);

/** A tsquery for word prefixes. */
function tsquery(user_id, q) {
  const words = q.match(/[\p{L}\p{N}]+/gu) ?? [];
  return words.map((word) => `'${userPrefix(user_id)}${word}':*`).join(' & ');
}

/** The value of `dueKey` of a task. */
const dueKeyOf = ({ due }) => (due ? `${due.date} ${due.time ?? '23:59:59'}` : 'infinity');

const cursorAfter = (last, sort) =>
  Buffer.from(`${sort === 'due' ? dueKeyOf(last) : last[sort]}|${last.id}`).toString('base64url');

/** The sort key in a cursor. */
function parseCursor(cursor) {
  const [key, id] = Buffer.from(cursor, 'base64url').toString().split('|');
  if (!new RegExp(uuid.pattern).test(id)) {
    throw new ProblemError(422, 'This cursor is not of this service.');
  }
  return { key, id };
}

// --- problems ---

/** A problem to send as the response. */
class ProblemError extends Error {
  constructor(statusCode, message) {
    super(message);
    this.statusCode = statusCode;
  }
}

const taskNotFound = () => new ProblemError(404, 'This user has no task with this ID.');

/** Sends a problem (RFC 9457). */
function sendProblem(reply, status, detail, errors = []) {
  const body = { type: 'about:blank', title: STATUS_CODES[status], status, detail, errors };
  return reply.code(status).type('application/problem+json').send(body);
}

function onError(error, request, reply) {
  if (error.validation) {
    const errors = error.validation.map(({ instancePath, message }) => ({
      pointer: instancePath,
      detail: message,
    }));
    return sendProblem(reply, 422, error.message, errors);
  }
  if (error.code?.startsWith('22')) {
    return sendProblem(reply, 422, error.message);
  }
  if (error.code?.startsWith('23')) {
    return sendProblem(reply, 409, `This task violates ${error.constraint_name}.`);
  }
  const { statusCode = 500, message } = error;
  return sendProblem(reply, statusCode, statusCode < 500 ? message : 'Internal server error.');
}

// --- operations ---

const sendCurrent = (reply, found) => reply.header('etag', found.etag).send(found);

function sendCreated(reply, made) {
  const location = `/api/v1/users/${encodeURIComponent(made.user_id)}/tasks/${made.id}`;
  return sendCurrent(reply.code(201).header('location', location), made);
}

async function listTasks(request) {
  const { limit, cursor, completed, sort, order } = request.query;
  const condition = conditionOf(request.params.user_id, request.query);
  const after = cursor === undefined ? null : parseCursor(cursor);
  const direction = order === 'desc' ? sql`desc` : sql`asc`;
  const ordering = sql`order by ${sortKeys[sort]} ${direction}, id ${direction} limit ${limit + 1}`;
  const comparison = order === 'desc' ? sql`<` : sql`>`;
  const page = (moreConditions) => sql`
    select ${columns} from tasks where ${condition} ${moreConditions}
    ${after ? sql`and (${sortKeys[sort]}, id) ${comparison} (${after.key}, ${after.id})` : sql``}
    ${ordering}`;
  // An index separates open and completed tasks.
  const rows = await (sort === 'created_at' || completed !== undefined
    ? page(sql``)
    : sql`
        select * from (
          (${page(sql`and not completed`)}) union all (${page(sql`and completed`)})
        ) as tasks ${ordering}`);
  const items = rows.slice(0, limit).map(taskOf);
  return { items, next_cursor: rows.length > limit ? cursorAfter(items.at(-1), sort) : null };
}

/** The condition of a list. */
function conditionOf(user_id, { q, completed, list_id, labels }) {
  const keys = labels?.split(',').map((label) => `${userPrefix(user_id)}:${label}`);
  return sql`user_id = ${user_id}
    ${q === undefined ? sql`` : sql`and search @@ lower(${tsquery(user_id, q)})::tsquery`}
    ${completed === undefined ? sql`` : sql`and completed = ${completed}`}
    ${list_id === undefined ? sql`` : sql`and list_id = ${list_id}`}
    ${keys === undefined ? sql`` : sql`and labels <> '' and ${labelKeys} @> ${keys}::text[]`}`;
}

/** The INSERT of a task. */
function insertOf(user_id, task_id, body) {
  const { title, description, completed } = body;
  const own = columnsOf(body);
  return sql`
    insert into tasks
      (user_id, id, etag, title, description, completed_at, list_id, parent_id, depth, priority,
       due_date, due_time, due_timezone, labels, created_at, updated_at)
    values (${user_id}, ${task_id}, ${randomUUID()}, ${title}, ${description},
      case when ${completed} then now() end, ${own.list_id}, ${own.parent_id}, ${own.depth},
      ${own.priority}, ${own.due_date}, ${own.due_time}, ${own.due_timezone}, ${own.labels},
      now(), now())`;
}

async function createTask(request, reply) {
  const { user_id } = request.params;
  const key = request.headers['idempotency-key'];
  if (key !== undefined) {
    return sendCreated(reply, await createIdempotently(user_id, key, request.body));
  }
  const [row] = await sql`${insertOf(user_id, uuidv7(), request.body)} returning ${columns}`;
  return sendCreated(reply, taskOf(row));
}

/** Returns the task of this key, new or existing. */
async function createIdempotently(user_id, key, body) {
  const { title, description, completed } = body;
  const payload = [title, description, completed, ...Object.values(columnsOf(body))];
  const digest = createHash('sha256').update(JSON.stringify(payload)).digest();
  const values = [user_id, key, digest, uuidv7(), randomUUID(), ...payload];
  const [row] = await sql.unsafe(createIdempotentlySql, values, { prepare: true });
  if (row === undefined) {
    throw new ProblemError(409, 'A request with this key is being served.');
  }
  if (!digest.equals(row.payload_digest)) {
    throw new ProblemError(422, 'This key was sent with another body before.');
  }
  // The task may have been changed since, so the response is computed from the request.
  const { task_id: id, created_at, etag } = row;
  const completed_at = completed ? created_at : null;
  const own = { ...body, ...columnsOf(body), id, user_id, completed_at };
  const [computed] = await sql`
    select (due_date + due_time) at time zone due_timezone as due_at, ${position} as position
    from (values (${own.due_date}::date, ${own.due_time}::time,
                  ${own.due_timezone}::text, null::text, ${created_at}::timestamptz,
                  ${id}::uuid))
      as tasks (due_date, due_time, due_timezone, position, created_at, id)`;
  return taskOf({ ...own, ...computed, created_at, updated_at: created_at, etag });
}

const selectTask = (user_id, task_id) => sql`
  select ${columns} from tasks where user_id = ${user_id} and id = ${task_id}`;

async function getTask(request, reply) {
  const { user_id, task_id } = request.params;
  const [row] = await selectTask(user_id, task_id);
  if (row === undefined) {
    throw taskNotFound();
  }
  const found = taskOf(row);
  if (request.headers['if-none-match'] === found.etag) {
    return reply.code(304).header('etag', found.etag).send();
  }
  return sendCurrent(reply, found);
}

async function replaceTask(request, reply) {
  const { user_id, task_id } = request.params;
  const [row] = await sql`
    ${insertOf(user_id, task_id, request.body)}
    on conflict (user_id, id) do update
    set title = excluded.title,
        description = excluded.description,
        completed_at = ${newCompletedAt(request.body.completed)},
        list_id = excluded.list_id,
        parent_id = excluded.parent_id,
        depth = excluded.depth,
        priority = excluded.priority,
        due_date = excluded.due_date,
        due_time = excluded.due_time,
        due_timezone = excluded.due_timezone,
        labels = excluded.labels,
        updated_at = ${later},
        etag = excluded.etag
    returning ${columns}`;
  const created = row.created_at === row.updated_at;
  return created ? sendCreated(reply, taskOf(row)) : sendCurrent(reply, taskOf(row));
}

async function updateTask(request, reply) {
  const { user_id, task_id } = request.params;
  const { completed, ...patch } = request.body;
  const values = { ...patch, ...columnsOf(patch), etag: randomUUID() };
  const names = Object.keys(patch).flatMap((name) => propertyColumns[name]);
  const [row] = await (Object.keys(request.body).length === 0
    ? selectTask(user_id, task_id)
    : sql`
        update tasks set ${sql(values, [...names, 'etag'])}, updated_at = ${later}
          ${completed === undefined ? sql`` : sql`, completed_at = ${newCompletedAt(completed)}`}
        where user_id = ${user_id} and id = ${task_id}
        returning ${columns}`);
  if (row === undefined) {
    throw taskNotFound();
  }
  return sendCurrent(reply, taskOf(row));
}

/** Deletes a task and its subtasks. */
async function deleteTask(request, reply) {
  const { user_id, task_id } = request.params;
  const { count } = await sql`
    delete from tasks
    where user_id = ${user_id} and (id = ${task_id} or parent_id = ${task_id})`;
  if (count === 0) {
    throw taskNotFound();
  }
  return reply.code(204).send();
}

// --- the application ---

// Longer than a user id may be, so that the schema rejects a longer one.
const app = Fastify({ routerOptions: { maxParamLength: 1024 } });

// Types are converted only in the URL, where every value is text.
const strict = new Ajv({ useDefaults: true });
const coercing = new Ajv({ useDefaults: true, coerceTypes: true });
app.setValidatorCompiler(({ schema, httpPart }) =>
  (httpPart === 'body' ? strict : coercing).compile(schema),
);

const parseJson = app.getDefaultJsonParser('error', 'error');
app.addContentTypeParser('application/merge-patch+json', { parseAs: 'string' }, parseJson);

app.setErrorHandler(onError);
app.setNotFoundHandler((request, reply) => sendProblem(reply, 404, 'Not found.'));
app.addHook('onClose', () => sql.end());

const tasks = '/api/v1/users/:user_id/tasks';
const inTasks = { params: userPath };
app.get(
  tasks,
  { schema: { ...inTasks, querystring: listQuery, response: { 200: taskPage } } },
  listTasks,
);
app.post(tasks, { schema: { ...inTasks, body: taskCreate, response: { 201: task } } }, createTask);

const oneTask = `${tasks}/:task_id`;
const ofTask = { params: taskPath };
app.get(oneTask, { schema: { ...ofTask, response: { 200: task } } }, getTask);
app.put(
  oneTask,
  { schema: { ...ofTask, body: taskReplace, response: { 200: task, 201: task } } },
  replaceTask,
);
app.patch(oneTask, { schema: { ...ofTask, body: taskPatch, response: { 200: task } } }, updateTask);
app.delete(oneTask, { schema: ofTask }, deleteTask);

if (cluster.isPrimary && Number(WORKERS) > 1) {
  const workers = Array.from({ length: Number(WORKERS) }, () => cluster.fork());
  process.once('SIGTERM', () => workers.forEach((worker) => worker.process.kill()));
} else {
  process.once('SIGTERM', async () => {
    await app.close();
    process.exit();
  });
  await app.listen({ host: '127.0.0.1', port: Number(PORT) });
}
