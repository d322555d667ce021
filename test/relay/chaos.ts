import { setTimeout as pause } from 'node:timers/promises'
import { expect } from 'vitest'
import { compare, countDifferences, readStreams } from '../../testkit/oracle/differences.js'
import { createTruth, readTruth } from '../../testkit/oracle/truth.js'
import { createSubjects, seeded, write } from '../../testkit/oracle/writer.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { startRedis, until } from '../../testkit/services/index.js'
import { relayTest as test } from './relay-env.js'

const WRITERS = 8
const STREAMS = ['orders', 'payments', 'shipments', 'users']

/** It moves a lot, and what else the machine does is no property of it. */
const TIMEOUT_MS = 600_000
const PATIENCE_MS = 240_000

export interface ChaosSize {
  events: number
  /** Each eighth fault is a freeze, so there are (kills + freezes) / 8 of them. */
  kills: number
  freezes: number
}

/** Declares the test at this size. */
export function chaosTest({ events, kills, freezes }: ChaosSize): void {
  test(`${events} events by ${WRITERS} writers, ${kills} kills of the relay, some freezes: nothing lost, doubled, invented, altered or out of order`, {
    timeout: TIMEOUT_MS,
  }, async ({ createEnv }) => {
    const seed = Number(process.env.OUTRIDER_TEST_SEED ?? Date.now() % 1_000_000)
    console.log(`seed ${seed} (OUTRIDER_TEST_SEED repeats it)`)
    const random = seeded(seed)
    const env = await createEnv({ redis: await startRedis({ settings: { appendonly: 'yes' } }) })
    await createTruth(env.postgres)
    await createSubjects(env.postgres, 200)
    // Short, so that a frozen relay loses its connection, and the lock with it, within the test.
    await env.database.query(`alter role relay_${env.database.name} set wal_sender_timeout = '2s'`)
    let committed = 0
    const writers = Promise.all(
      Array.from({ length: WRITERS }, async (_, writer) => {
        const client = await env.database.connect()
        await write(client, {
          writer,
          events: events / WRITERS,
          streams: STREAMS,
          subjects: 200,
          payload: (draw) =>
            JSON.stringify({ n: draw(), text: 'Ωμέγα 🚀 "quoted" \\ \n'.repeat(Math.floor(draw() * 20)) }),
          random: seeded(seed + writer + 1),
          committed: (more) => {
            committed += more
          },
        })
        await client.end()
      }),
    )

    // Two relays at all times; whichever is active dies, in mid-stream, whenever enough was committed again.
    const relays: RelayProcess[] = [await env.relay(), await env.relay()]
    const active = () =>
      until(
        async () => {
          for (const relay of relays) if ((await relay.status())?.state === 'streaming') return relay
          return undefined
        },
        {
          timeout: PATIENCE_MS,
          message: () => `an active relay\n${relays.map((relay) => relay.tail(10)).join('\n--\n')}`,
        },
      )
    let appendedByDead = 0
    const frozen: RelayProcess[] = []
    // A zombie still holds events that it wants to publish; then it is one more relay that waits.
    const thaw = () => {
      for (const zombie of frozen.splice(0)) {
        zombie.signal('SIGCONT')
        relays.push(zombie)
      }
    }
    for (let fault = 1; fault <= kills + freezes; fault++) {
      await until(() => committed >= (fault * events) / (kills + freezes + 1), {
        timeout: PATIENCE_MS,
        message: 'the writers to go on',
      })
      const victim = await active()
      await pause(random() * 100)
      if (fault % 8 === 0) {
        victim.signal('SIGSTOP')
        frozen.push(victim)
      } else {
        appendedByDead += (await victim.metric('outrider_events_appended_total').catch(() => 0)) ?? 0
        await victim.kill()
      }
      relays.splice(relays.indexOf(victim), 1, await env.relay())
      if (fault % 8 === 3) thaw()
    }
    thaw()
    await writers
    // Also where the last victim had published everything: it has an heir.
    await active()

    const truth = await readTruth(env.postgres)
    await until(
      async () => {
        const lengths = await Promise.all(STREAMS.map((stream) => env.redis.xlen(stream)))
        return lengths.reduce((sum, length) => sum + length, 0) >= truth.length
      },
      {
        timeout: PATIENCE_MS,
        message: () => `everything to arrive\n${relays.map((relay) => relay.tail(10)).join('\n--\n')}`,
      },
    )
    await Promise.all(relays.map((relay) => relay.stop()))
    const differences = compare(truth, await readStreams(env.redis, STREAMS))
    expect(truth.length).toBeGreaterThanOrEqual(events)
    expect(countDifferences(differences)).toEqual({ lost: 0, phantom: 0, duplicated: 0, divergent: 0, disordered: 0 })
    // The faults bit: there were as many sessions, the dead had published, and the living met what they had published.
    const { rows } = await env.postgres.query('select count(*)::int as sessions from outrider.session')
    expect(rows[0].sessions).toBeGreaterThan(kills)
    expect(appendedByDead).toBeGreaterThan(0)
    expect(await env.postgres.query('select * from outrider.incident').then(({ rows }) => rows)).toEqual([])
  })
}
