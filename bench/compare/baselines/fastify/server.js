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
  },
};

const taskCreate = {
  type: 'object',
  properties: {
    title,
    description: { ...description, default: null },
    completed: { ...completed, default: false },
  },
  required: ['title'],
  additionalProperties: false,
};

const taskReplace = {
  type: 'object',
  properties: { title, description, completed },
  required: ['title', 'description', 'completed'],
  additionalProperties: false,
};

const taskPatch = {
  type: 'object',
  properties: { title, description, completed },
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
  },
});

const columns = sql`
  id, user_id, title, description, completed, completed_at, created_at, updated_at, etag`;
// Always after the last change, even if the clock was set back.
const later = sql`greatest(now(), tasks.updated_at + interval '1 microsecond')`;
const createIdempotentlySql = readFileSync(new URL('../create_idempotently.sql', import.meta.url), 'utf8');

const entityTag = (version) => `"${version.replaceAll('-', '')}"`;
const taskOf = (row) => ({ ...row, etag: entityTag(row.etag) });

/** The new `completed_at`. A completed task keeps its timestamp. */
const newCompletedAt = (done) =>
  sql`case when ${done} then coalesce(tasks.completed_at, ${later}) end`;

/** The assignments for the properties in the request, each with a trailing comma. */
const patchAssignments = (patch) => sql`
  ${'title' in patch ? sql`title = ${patch.title},` : sql``}
  ${'description' in patch ? sql`description = ${patch.description},` : sql``}
  ${'completed' in patch ? sql`completed_at = ${newCompletedAt(patch.completed)},` : sql``}`;

/** A tsquery for word prefixes. Each lexeme starts with the prefix of its user. */
function tsquery(user_id, q) {
  const prefix = createHash('sha256').update(user_id).digest('hex').slice(0, 8);
  const words = q.match(/[\p{L}\p{N}]+/gu) ?? [];
  return words.map((word) => `'${prefix}${word}':*`).join(' & ');
}

const cursorAfter = ({ created_at, id }) =>
  Buffer.from(`${created_at}|${id}`).toString('base64url');

/** The sort key in a cursor. */
function parseCursor(cursor) {
  const [createdAt, id] = Buffer.from(cursor, 'base64url').toString().split('|');
  if (Number.isNaN(Date.parse(createdAt)) || !new RegExp(uuid.pattern).test(id)) {
    throw new ProblemError(422, 'This cursor is not of this service.');
  }
  return { createdAt, id };
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
  const { user_id } = request.params;
  const { limit, cursor, q } = request.query;
  const after = cursor === undefined ? null : parseCursor(cursor);
  const rows = await sql`
    select ${columns} from tasks where user_id = ${user_id}
    ${after ? sql`and (created_at, id) < (${after.createdAt}, ${after.id})` : sql``}
    ${q === undefined ? sql`` : sql`and search @@ lower(${tsquery(user_id, q)})::tsquery`}
    order by created_at desc, id desc limit ${limit + 1}`;
  const items = rows.slice(0, limit).map(taskOf);
  return { items, next_cursor: rows.length > limit ? cursorAfter(items.at(-1)) : null };
}

async function createTask(request, reply) {
  const { user_id } = request.params;
  const key = request.headers['idempotency-key'];
  if (key !== undefined) {
    return sendCreated(reply, await createIdempotently(user_id, key, request.body));
  }
  const { title, description, completed } = request.body;
  const [row] = await sql`
    insert into tasks
      (user_id, id, etag, title, description, completed_at, created_at, updated_at)
    values (${user_id}, ${uuidv7()}, ${randomUUID()}, ${title}, ${description},
      case when ${completed} then now() end, now(), now())
    returning ${columns}`;
  return sendCreated(reply, taskOf(row));
}

/** Returns the task of this key, new or existing. */
async function createIdempotently(user_id, key, { title, description, completed }) {
  const payload = [title, description, completed];
  const digest = createHash('sha256').update(JSON.stringify(payload)).digest();
  const values = [user_id, key, digest, uuidv7(), randomUUID(), ...payload];
  const [row] = await sql.unsafe(createIdempotentlySql, values, { prepare: true });
  if (row === undefined) {
    throw new ProblemError(409, 'A request with this key is being served.');
  }
  if (!digest.equals(row.payload_digest)) {
    throw new ProblemError(422, 'This key was sent with another body before.');
  }
  const { task_id: id, created_at, etag } = row;
  const completed_at = completed ? created_at : null;
  const timestamps = { completed_at, created_at, updated_at: created_at };
  return taskOf({ id, user_id, title, description, completed, ...timestamps, etag });
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
  const { title, description, completed } = request.body;
  const [row] = await sql`
    insert into tasks
      (user_id, id, etag, title, description, completed_at, created_at, updated_at)
    values (${user_id}, ${task_id}, ${randomUUID()}, ${title}, ${description},
      case when ${completed} then now() end, now(), now())
    on conflict (user_id, id) do update
    set title = excluded.title,
        description = excluded.description,
        completed_at = ${newCompletedAt(completed)},
        updated_at = ${later},
        etag = excluded.etag
    returning ${columns}`;
  const created = row.created_at === row.updated_at;
  return created ? sendCreated(reply, taskOf(row)) : sendCurrent(reply, taskOf(row));
}

async function updateTask(request, reply) {
  const { user_id, task_id } = request.params;
  const [row] = await (Object.keys(request.body).length === 0
    ? selectTask(user_id, task_id)
    : sql`
        update tasks
        set ${patchAssignments(request.body)} updated_at = ${later}, etag = ${randomUUID()}
        where user_id = ${user_id} and id = ${task_id}
        returning ${columns}`);
  if (row === undefined) {
    throw taskNotFound();
  }
  return sendCurrent(reply, taskOf(row));
}

async function deleteTask(request, reply) {
  const { user_id, task_id } = request.params;
  const { count } = await sql`
    delete from tasks where user_id = ${user_id} and id = ${task_id}`;
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
