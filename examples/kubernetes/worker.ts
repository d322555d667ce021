import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { setTimeout as pause } from 'node:timers/promises'
import { defineEvent } from 'outrider'
import { createConsumer, type Duration } from 'outrider/consumer'
import pg from 'pg'
import { z } from 'zod'

/** A worker for Kubernetes, as a program of your own service. worker.yaml deploys it. */

/** A required setting of the deployment. */
function setting(name: string): string {
  const value = process.env[name]
  if (value) return value
  throw new Error(`Expected the environment variable ${name}, found none.`)
}

/** A mounted Secret, without the line break that editors append. */
const secret = (name: string): string => readFileSync(setting(name), 'utf8').trimEnd()

const OrderPlaced = defineEvent({
  stream: 'orders',
  type: 'order.placed',
  version: 1,
  data: z.object({ total: z.number() }),
})

const concurrency = Number(setting('CONCURRENCY'))
// One connection more than handlers, for the library's own queries. All pods together use up to `maxReplicas` times as many.
const db = new pg.Pool({ connectionString: secret('DATABASE_URL_FILE'), max: concurrency + 1 })

const consumer = createConsumer({
  redis: secret('REDIS_URL_FILE'),
  db,
  group: setting('GROUP'),
  concurrency,
  // A stop takes up to 10 s more if a server does not answer. terminationGracePeriodSeconds must cover both.
  stopTimeout: setting('STOP_TIMEOUT') as Duration,
}).on(OrderPlaced, async (event, { tx }) => {
  await tx.query('insert into invoice (order_id, total) values ($1, $2)', [event.subject, event.data.total])
})

let state: 'starting' | 'working' | 'stopping' = 'starting'

/**
 * `/livez` answers while the process runs. It does not check Redis or Postgres: a restart of the worker would not repair
 * them, and the consumer reconnects by itself.
 *
 * `/readyz` is 200 once the worker has found Redis, its database and the inbox, until it stops. No Service sends it traffic; a
 * rollout waits for it before it removes an old worker. It stays 200 while Redis is down: otherwise an outage would hold up
 * every rollout.
 */
const server = createServer((request, response) => {
  const { registry } = consumer
  switch (request.url) {
    case '/livez':
      return response.end('ok\n')
    case '/readyz':
      return response.writeHead(state === 'working' ? 200 : 503).end(`${state}\n`)
    case '/metrics':
      return registry.metrics().then(
        (text) => response.writeHead(200, { 'content-type': registry.contentType }).end(text),
        (error) => response.writeHead(500).end(`${error.message}\n`),
      )
    default:
      return response.writeHead(404).end()
  }
})
await once(server.listen(Number(setting('PORT'))), 'listening')

// `stop` releases the entries that have not begun, then waits for running handlers, at most STOP_TIMEOUT.
const stopped = new Promise<void>((resolve) => {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => {
      state = 'stopping'
      resolve(consumer.stop())
    })
  }
})

// If it rejects, the process exits with code 1 and its log says what to do; Kubernetes restarts it with backoff.
await consumer.start().catch((error) => {
  if (state !== 'stopping') throw error
})
if (state === 'starting') state = 'working'

await stopped
// A handler that ignores its signal keeps its connection, and `end` would wait for it. Its transaction rolls back.
await Promise.race([db.end(), pause(1_000)])
process.exit(0)
