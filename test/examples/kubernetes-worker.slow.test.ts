import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { promisify } from 'node:util'
import type { Redis } from 'ioredis'
import pg from 'pg'
import { test as base, expect } from 'vitest'
import { WorkerProcess } from '../../examples/support/worker-process.js'
import { grantRoles } from '../../src/postgres/setup/grants.js'
import { migrate } from '../../src/postgres/setup/migrate.js'
import { entryOf } from '../../testkit/entry.js'
import { createDatabase, freePort, freshRedis, until } from '../../testkit/services/index.js'
import { pendingOf } from '../consumer/watch.js'
import { LOCK_WAITS } from '../support/lock-waits.js'
import { environmentOf, fileOf, manifestOf, textOf } from '../support/manifests.js'

// examples/kubernetes/worker.ts as worker.yaml runs it: with the environment and the mounted files of that container.

const STREAM = 'orders'
const GROUP = 'invoices'
const PROGRAM = new URL('../../examples/kubernetes/worker.ts', import.meta.url)

interface WorkerEnv {
  redis: Redis
  /** Starts the worker; resolves once it reads events. Variables of its own go over those of the manifest. */
  worker(variables?: Record<string, string>): Promise<WorkerProcess & { port: number }>
  /** Its environment, without starting it. */
  environment(variables?: Record<string, string>): Promise<Record<string, string>>
  append(count: number): Promise<void>
  /** The invoices, in the order of committing; nothing but the inbox keeps an order from being there twice. */
  invoices(): Promise<string[]>
  /** Keeps handlers from going on until the returned function is called. */
  holdUp(): Promise<() => Promise<void>>
  /** How many handlers wait for that. */
  heldUp(): Promise<number>
}

const test = base.extend<{ env: WorkerEnv }>({
  // biome-ignore lint/correctness/noEmptyPattern: Vitest needs the pattern to see which fixtures are needed.
  env: async ({}, use) => {
    const database = await createDatabase()
    const server = await freshRedis()
    const redis = server.client()
    const owner = await database.connect()
    await migrate(owner, { only: 'inbox' })
    // Roles are the whole server's, which other tests use, too.
    const role = `${new URL(database.url).pathname.slice(1)}_worker`
    await owner.query(textOf('setup.sql').replaceAll('invoices_worker', role))
    await grantRoles(owner, { outrider_consumer: [role] })
    const workers: WorkerProcess[] = []
    const clients: pg.Client[] = []
    const environment = async (variables: Record<string, string> = {}) => ({
      ...environmentOf(manifestOf('worker.yaml', 'Deployment').spec.template.spec.containers[0], {
        '/etc/worker/postgres/url': `${database.urlAs({ user: role })}\n`,
        '/etc/worker/redis/url': `${server.url}\n`,
      }),
      PORT: String(await freePort()),
      ...variables,
    })
    let orders = 0
    await use({
      redis,
      environment,
      async worker(variables) {
        const told = await environment(variables)
        const worker = await WorkerProcess.start('worker', PROGRAM, told, () => {})
        workers.push(worker)
        return Object.assign(worker, { port: Number(told.PORT) })
      },
      async append(count) {
        const pipeline = redis.pipeline()
        for (let n = 0; n < count; n++) {
          const subject = `order-${orders++}`
          pipeline.xadd(STREAM, '*', ...entryOf({ total: 10 }, { type: 'order.placed', subject }))
        }
        for (const [error] of (await pipeline.exec()) ?? []) if (error) throw error
      },
      async invoices() {
        const { rows } = await owner.query('select order_id from invoice order by id')
        return rows.map(({ order_id }) => order_id)
      },
      async holdUp() {
        const client = new pg.Client({ connectionString: database.url })
        clients.push(client)
        await client.connect()
        await client.query('begin')
        await client.query('lock table invoice in share mode')
        return async () => void (await client.query('rollback'))
      },
      async heldUp() {
        const { rows } = await owner.query(`select from ${LOCK_WAITS} where relation = 'invoice'::regclass`)
        return rows.length
      },
    })
    await Promise.all(workers.map((worker) => worker.isRunning && worker.kill()))
    await Promise.all([...clients, owner].map((client) => client.end()))
    redis.disconnect()
    await server.remove()
    await database.drop()
    await database.server.query(`drop role ${pg.escapeIdentifier(role)}`)
  },
})

const get = async (port: number, path: string) => {
  const response = await fetch(`http://127.0.0.1:${port}${path}`)
  return { status: response.status, text: await response.text() }
}

/** A gauge of the group's, by its labels; undefined where it is not exported with just those. */
async function gauge(port: number, name: string): Promise<number | undefined> {
  const { text } = await get(port, '/metrics')
  const labels = `group="${GROUP}",stream="${STREAM}"`
  const line = text.split('\n').find((line) => line.startsWith(`outrider_consumer_${name}{${labels}} `))
  return line === undefined ? undefined : Number(line.split(' ').at(-1))
}

const pendingCount = async (redis: Redis) => (await pendingOf(redis, STREAM, GROUP)).length

// The group is looked at every ten seconds.
test('the worker does each event once, and exports how far its group is behind until it is not', async ({ env }) => {
  const goOn = await env.holdUp()
  await env.append(500)
  const worker = await env.worker()
  expect((await get(worker.port, '/livez')).status).toBe(200)
  await until(async () => (await get(worker.port, '/readyz')).status === 200)
  // What it holds itself is pending, and not part of the lag. Before its first call has ended it holds what runs.
  await until(async () => (await gauge(worker.port, 'pending')) === 10)
  expect(await gauge(worker.port, 'lag')).toBe(490)
  expect(await gauge(worker.port, 'lag_known')).toBe(1)
  await goOn()
  await until(async () => (await gauge(worker.port, 'lag')) === 0 && (await gauge(worker.port, 'pending')) === 0)
  const invoices = await env.invoices()
  expect(invoices).toHaveLength(500)
  expect(new Set(invoices).size).toBe(500)
  expect(await worker.stop()).toBe(0)
})

test('SIGTERM lets the handler that runs finish, and the worker ends with exit code 0', async ({ env }) => {
  const worker = await env.worker()
  const goOn = await env.holdUp()
  await env.append(1)
  await until(async () => (await env.heldUp()) === 1)
  // The group is looked at now and then: it may have been in the moment when the event was appended.
  await until(async () => (await gauge(worker.port, 'lag')) === 0)
  const ended = worker.stop()
  // The rollout sees it go; Prometheus still sees its metrics, and Kubernetes that it lives.
  await until(async () => (await get(worker.port, '/readyz')).status === 503)
  expect((await get(worker.port, '/livez')).status).toBe(200)
  expect(await gauge(worker.port, 'lag')).toBe(0)
  await goOn()
  expect(await ended).toBe(0)
  expect(await env.invoices()).toEqual(['order-0'])
  expect(await pendingCount(env.redis)).toBe(0)
  expect(await env.redis.xinfo('CONSUMERS', STREAM, GROUP)).toEqual([])
})

test('what a handler has not finished at the deadline is rolled back, released, and done once by another worker', async ({
  env,
}) => {
  const worker = await env.worker({ STOP_TIMEOUT: '300ms' })
  const goOn = await env.holdUp()
  await env.append(20)
  await until(async () => (await env.heldUp()) === 10)
  const asked = performance.now()
  expect(await worker.stop()).toBe(0)
  // What worker.yaml allows for beyond the deadline.
  expect(performance.now() - asked).toBeLessThan(10_000)
  const left = await pendingOf(env.redis, STREAM, GROUP)
  // Uncounted, and idle for so long that anybody may take them.
  expect(left.map(({ deliveries }) => deliveries)).toEqual(Array(10).fill(0))
  expect(left.every(({ idle }) => idle >= 3_600_000)).toBe(true)
  await goOn()
  await until(async () => (await env.heldUp()) === 0)
  expect(await env.invoices()).toEqual([])
  await env.worker()
  await until(async () => (await env.invoices()).length >= 20 && (await pendingCount(env.redis)) === 0)
  expect((await env.invoices()).toSorted()).toEqual(Array.from({ length: 20 }, (_, n) => `order-${n}`).toSorted())
})

test('a worker that cannot start ends with exit code 1, and says what it found', async ({ env }) => {
  const port = await freePort()
  const variables = await env.environment()
  const url = environmentOf(
    { name: 'worker', env: [{ name: 'url', value: '/r/url' }], volumeMounts: [{ name: 'r', mountPath: '/r' }] },
    { '/r/url': `redis://127.0.0.1:${port}` },
  )
  const failed = await run({ ...variables, REDIS_URL_FILE: url.url as string })
  expect(failed.code).toBe(1)
  expect(failed.stderr).toContain(`Redis at 127.0.0.1:${port} refused the connection`)
  const { GROUP: _, ...without } = variables
  const incomplete = await run(without)
  expect(incomplete.code).toBe(1)
  expect(incomplete.stderr).toContain('Expected the environment variable GROUP, found none.')
})

test('a worker that is told to stop while it starts does so, with exit code 0', async ({ env }) => {
  // Takes connections and says nothing.
  const silent = createServer((socket) => socket.on('error', () => {}))
  await once(silent.listen(0, '127.0.0.1'), 'listening')
  const { port } = silent.address() as { port: number }
  const connected = once(silent, 'connection')
  const url = environmentOf(
    { name: 'worker', env: [{ name: 'url', value: '/r/url' }], volumeMounts: [{ name: 'r', mountPath: '/r' }] },
    { '/r/url': `redis://127.0.0.1:${port}` },
  )
  const variables = await env.environment({ REDIS_URL_FILE: url.url as string })
  const child = spawn(process.execPath, ['--import', 'tsx', fileOf('worker.ts')], {
    env: whole(variables),
    stdio: 'ignore',
  })
  try {
    await connected
    expect((await get(Number(variables.PORT), '/readyz')).status).toBe(503)
    child.kill('SIGTERM')
    expect((await once(child, 'exit'))[0]).toBe(0)
  } finally {
    child.kill('SIGKILL')
    silent.close()
  }
})

const whole = (env: Record<string, string>): Record<string, string> => {
  const { PATH = '', HOME = '' } = process.env
  return { PATH, HOME, ...env }
}

/** The worker, to its end. */
async function run(env: Record<string, string>): Promise<{ code: number; stderr: string }> {
  try {
    await promisify(execFile)(process.execPath, ['--import', 'tsx', fileOf('worker.ts')], { env: whole(env) })
    return { code: 0, stderr: '' }
  } catch (error) {
    return error as { code: number; stderr: string }
  }
}
