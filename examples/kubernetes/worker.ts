import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { setTimeout as pause } from 'node:timers/promises'
import { defineEvent } from 'outrider'
import { createConsumer, type Duration } from 'outrider/consumer'
import pg from 'pg'
import { z } from 'zod'

/** A worker as Kubernetes runs it: a process of a service of your own. worker.yaml deploys it. */

/** What whoever deploys it says: by the environment, without a default. */
function setting(name: string): string {
  const value = process.env[name]
  if (value) return value
  throw new Error(`Expected the environment variable ${name}, found none.`)
}

/** A mounted Secret. A line break that an editor left behind is no part of it. */
const secret = (name: string): string => readFileSync(setting(name), 'utf8').trimEnd()

const OrderPlaced = defineEvent({
  stream: 'orders',
  type: 'order.placed',
  version: 1,
  data: z.object({ total: z.number() }),
})

const concurrency = Number(setting('CONCURRENCY'))
// One more than handlers, for the library's own upkeep. All pods together take this many times `maxReplicas`.
const db = new pg.Pool({ connectionString: secret('DATABASE_URL_FILE'), max: concurrency + 1 })
// An idle connection that breaks is replaced when it is needed; without a listener it would end the process.
db.on('error', (error) => console.error(error.message))

const consumer = createConsumer({
  ...{ redis: secret('REDIS_URL_FILE'), db, group: setting('GROUP'), concurrency },
  // Stopping takes up to ten seconds more: for last words to servers that may be gone. Kubernetes must wait for both.
  stopTimeout: setting('STOP_TIMEOUT') as Duration,
}).on(OrderPlaced, async (event, { tx }) => {
  await tx.query('insert into invoice (order_id, total) values ($1, $2)', [event.subject, event.data.total])
})

let state: 'starting' | 'working' | 'stopping' = 'starting'

/**
 * Alive is a process that answers. Neither server is asked: a restart would not bring it back, and a consumer waits for it.
 *
 * Ready is a worker that has found Redis, its database and the inbox, and is not asked to stop. No Service sends it anything;
 * it is the rollout that waits for it, before it takes an old worker away. It stays ready while Redis is down: else an outage
 * would hold up every rollout, and make autoscaling take what waits for what is missing.
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

// Begins nothing more, lets what runs finish until STOP_TIMEOUT, and lets go of the rest for the other workers.
const stopped = new Promise<void>((resolve) => {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => {
      state = 'stopping'
      resolve(consumer.stop())
    })
  }
})

// Where it rejects, the process ends with exit code 1 and says what to do; Kubernetes starts it again, ever later.
await consumer.start().catch((error) => {
  if (state !== 'stopping') throw error
})
if (state === 'starting') state = 'working'

await stopped
// A handler that took no notice of the deadline keeps its connection, and would be waited for. Its transaction rolls back.
await Promise.race([db.end(), pause(1_000)])
process.exit(0)
