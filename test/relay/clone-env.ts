import { headKey } from '../../src/event/names.js'
import { RelayProcess } from '../../testkit/relay-process.js'
import { needsProcess, type Postgres, startPostgres, until } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'

export interface CloneEnv extends RelayEnv {
  original: Postgres
  /** A copy of the server as it is now, running, with a relay of its own on the same Redis. */
  clone(): Promise<{ server: Postgres; relay(variables?: Record<string, string>): Promise<RelayProcess> }>
  openIncidents(server: Postgres): Promise<{ kind: string; reason: string; stream: string | null }[]>
  publish(server: Postgres, stream: string): Promise<string>
  /** The head of `orders` in Redis, but for the barrier's watermark, which comes when it comes. */
  head(): Promise<Record<string, string>>
}

export const cloneTest = test.extend<{ env: CloneEnv }>({
  env: async ({ createEnv, skip, onTestFinished }, use) => {
    needsProcess({ skip })
    const original = await startPostgres()
    onTestFinished(() => original.remove())
    const database = await original.createDatabase()
    const env = await createEnv({ database })
    const { rows } = await env.postgres.query('select lineage::text from outrider.lineage')
    await use({
      ...env,
      original,
      async clone() {
        const copy = await startPostgres({ dataFrom: await original.cloneData() })
        onTestFinished(() => copy.remove())
        const url = copy.url(database.name, { user: `relay_${database.name}` })
        return {
          server: copy,
          async relay(variables) {
            const relay = await RelayProcess.start({ ...env.variables, ...variables, OUTRIDER_POSTGRES_URL: url })
            onTestFinished(() => relay.kill())
            return relay
          },
        }
      },
      openIncidents: (which) =>
        which.query(
          'select kind, reason, stream from outrider.incident where closed_at is null order by id',
          [],
          database.name,
        ),
      async publish(which, stream) {
        const [row] = await which.query<{ id: string }>(
          "select outrider.publish($1, 'test.happened', '{}') as id",
          [stream],
          database.name,
        )
        return row!.id
      },
      async head() {
        const { durable: _, ...head } = await env.redis.hgetall(headKey('orders', rows[0].lineage))
        return head
      },
    })
  },
})

/** The relay has looked again so many times more. */
export async function looksAgain(relay: RelayProcess, times = 1): Promise<void> {
  const before = (await relay.metric('outrider_errors_total')) ?? 0
  await until(async () => ((await relay.metric('outrider_errors_total')) ?? 0) >= before + times)
}
