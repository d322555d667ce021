import { randomUUID } from 'node:crypto'
import { expect } from 'vitest'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { loadAppend } from '../../src/redis/streams/append.js'
import { loadRepair } from '../../src/redis/streams/repair.js'
import { StateStore } from '../../src/relay/confirm/state-store.js'
import { AffectedStreams } from '../../src/relay/repair/affected-streams.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'

/** More than are read at once: the second gap's `orders` is looked at by the second page. */
const BETWEEN = 1000

const take = ({ redis }: RelayEnv) => redis.set('orders', 'a string')
const free = ({ redis }: RelayEnv) => redis.del('orders')

test.for([
  ['put right', take, free, undefined],
  ['taken', free, take, 'wrong_type'],
] as const)(
  'a stream that two gaps name is %s between the two looks: the second decides whether Redis refuses it',
  async ([, first, second, reason], { env }) => {
    await openTwoGaps(env)
    await first(env)
    await Promise.all([loadAppend(env.redis), loadRepair(env.redis)])
    const lineage = (await currentLineage(env.postgres, env.slot))!
    const session = randomUUID()
    const stateStore = new PagedStateStore(env.postgres, lineage, session, 0)
    stateStore.beforeSecondPage = () => second(env)
    const streams = new AffectedStreams({
      client: env.postgres,
      ...{ stateStore, lineage, partitions: {}, gaps: [], source: undefined, earlier: undefined, confirmed: 0n },
      repair: {
        ...{ session, timeline: 1, snapshot: '1:1:', until: 0n, unsettled: [], everyStream: false },
        ...{ beganAt: new Date(), attempts: 0, found: undefined },
      },
      ownership: {
        ...{ lineage: lineage.lineage, session },
        owns: async () => false,
        numberOf: async () => undefined,
        chain: () => undefined,
        mayBeUnrecorded: () => false,
        savedPosition: async () => undefined,
        othersAreSilent: async () => true,
        tookOver: async () => {},
      },
      recordForeign: async () => new Error("No head is another database's here."),
    })
    await streams.look(env.redis)
    expect(streams.refused.reasonOf('orders')).toBe(reason)
    expect(streams.size).toBe(BETWEEN + 1)
  },
)

class PagedStateStore extends StateStore {
  beforeSecondPage: () => Promise<unknown> = async () => {}
  #pages = 0

  override async savedHeadsOf(keys: readonly string[]) {
    this.#pages += 1
    if (this.#pages === 2) await this.beforeSecondPage()
    return super.savedHeadsOf(keys)
  }
}

async function openTwoGaps({ postgres }: RelayEnv): Promise<void> {
  await postgres.query(
    `with gap as (
       insert into outrider.incident (lineage, kind, reason, stream)
       select lineage, 'gap', 'stream_behind', stream from outrider.lineage, unnest(array['orders', null]) as stream returning id
     )
     insert into outrider.gap_stream (incident, stream_key)
     select id, 'orders' from gap union all select max(id), 'a' || n from gap, generate_series(1, $1::integer) as n group by n
     on conflict do nothing`,
    [BETWEEN],
  )
}
