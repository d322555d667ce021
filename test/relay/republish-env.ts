import type { Redis } from 'ioredis'
import { expect } from 'vitest'
import { republish } from '../../src/cli/republish.js'
import { isRequested } from '../../src/event/position.js'
import { until } from '../../testkit/services/index.js'
import { runCommand } from '../support/command.js'
import { LOCK_WAITS } from '../support/lock-waits.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'

/** Runs `outrider republish` as the owner of the database. */
export const runRepublish = (env: RelayEnv, flags: Record<string, string | boolean | string[]>, json = true) =>
  runCommand(republish, env.database.url, { config: { slot: env.slot }, flags, json, answer: true })

/** Has rows appended again, and leaves it to the relay; the number of the request. */
export async function requestOf(env: RelayEnv, flags: Record<string, string | boolean | string[]>): Promise<string> {
  const { text } = await runRepublish(env, { ...flags, 'no-wait': true })
  return JSON.parse(text).request
}

/** Until the request has ended; its row. */
export async function endOf(env: RelayEnv, id: string) {
  const row = await until(
    async () =>
      (await env.postgres.query('select * from outrider.request where id = $1 and ended_at is not null', [id])).rows[0],
    { message: 'the request to end' },
  )
  return row as {
    state: string
    appended: string
    gone: string
    rejected: string
    found: string
    message: string | null
  }
}

/** Inserts many events in one statement; their ids, in order. */
export async function insertMany(
  env: RelayEnv,
  count: number,
  stream = 'orders',
  type = 'happened',
): Promise<string[]> {
  const { rows } = await env.postgres.query(
    `with inserted as (
       insert into outrider.outbox (stream, type, subject, data)
         select $2, $3, 'subject ' || n % 10, json_build_object('n', n) from generate_series(1, $1) as n returning id, seq)
     select id from inserted order by seq`,
    [count, stream, type],
  )
  return rows.map(({ id }) => id)
}

/** Until the stream has so many entries. */
export const hasLength = (redis: Redis, stream: string, length: number) =>
  until(async () => (await redis.xlen(stream)) >= length, { message: `${length} entries in ${stream}` })

/**
 * Steps of a request:
 *
 *     open      before the relay records the stream, and appends to it
 *     saved     rows are appended, and their heads are not saved yet
 *     recorded  their heads are saved, and how far the request is is not recorded yet
 *     done      all of it is recorded, but for its end
 */
export type RequestStep = 'open' | 'saved' | 'recorded' | 'done'

export interface HeldRequest {
  /** Until the request waits there. */
  reached(): Promise<void>
  /** The statement that is held fails: the relay was killed before it. */
  breakOff(): Promise<void>
  /** It continues, and no later one is held. */
  release(): Promise<void>
}

const AT: Record<RequestStep, string> = {
  open: 'before insert on outrider.request_stream for each row',
  saved: "before insert or update on outrider.head for each row when (new.position ~ '-[89a-f][0-9a-f]{7}$')",
  recorded: 'before update on outrider.request for each row when (new.appended > old.appended)',
  done: "before update on outrider.request for each row when (new.state = 'done')",
}

/** Holds the next request at a step. */
export async function holdRequest(env: RelayEnv, step: RequestStep): Promise<HeldRequest> {
  const holder = await env.database.connect()
  await holder.query('select pg_advisory_lock(20113)')
  await env.postgres.query(
    `create function outrider.hold_request() returns trigger language plpgsql as $$
     begin perform pg_advisory_xact_lock_shared(20113); return new; end $$;
     create trigger hold_request ${AT[step]} execute function outrider.hold_request()`,
  )
  const waiting = `from ${LOCK_WAITS} where locktype = 'advisory' and objid = 20113`
  return {
    async breakOff() {
      await env.postgres.query(`select pg_terminate_backend(pid, 10000) ${waiting}`)
    },
    async reached() {
      await until(async () => (await env.postgres.query(`select ${waiting}`)).rowCount, {
        message: `the request to reach ${step}`,
      })
    },
    async release() {
      await holder.end()
      await env.postgres.query('drop function outrider.hold_request() cascade')
    },
  }
}

/** Rows of what a request needs while it is executed. */
export const leftovers = async (env: RelayEnv): Promise<number | null> =>
  (
    await env.postgres.query(
      'select id::text from outrider.request_event union all select stream_key from outrider.request_stream union all select id::text from outrider.present',
    )
  ).rowCount

/** Inserts events one after the other; their ids. */
export async function writer(env: RelayEnv, signal: AbortSignal): Promise<string[]> {
  const client = await env.database.connect()
  const ids: string[] = []
  while (!signal.aborted) {
    const { rows } = await client.query(
      "select outrider.publish('orders', 'test.happened', '{}') as id, pg_sleep(0.01)",
    )
    ids.push(rows[0].id)
  }
  await client.end()
  return ids
}

/** The ids of `orders` that came from WAL, and those that a request has appended. */
export async function publishedAndRequested(env: RelayEnv): Promise<{ published: string[]; requested: string[] }> {
  const published: string[] = []
  const requested: string[] = []
  for (const [, flat] of await env.redis.xrange('orders', '-', '+')) {
    const { id, sequence } = fieldsOf(flat) as { id: string; sequence: string }
    if (isRequested(sequence)) requested.push(id)
    else published.push(id)
  }
  return { published, requested }
}

/** An entry's fields by name. */
export const fieldsOf = (flat: string[]): Record<string, string> =>
  Object.fromEntries(flat.flatMap((name, i) => (i % 2 === 0 ? [[name, flat[i + 1] as string]] : [])))

/** Tests of relays that are killed, one after the other, at these steps. */
export function killedAt(chains: readonly (readonly RequestStep[])[]): void {
  test.for(chains.map((steps) => ({ steps, at: steps.join(', then ') })))(
    'whose relay is killed ($at) appends each row once',
    async ({ steps }, { env }) => {
      let relay = await env.streamingRelay()
      const ids = await insertMany(env, 2_500)
      await hasLength(env.redis, 'orders', ids.length)
      let held = await holdRequest(env, steps[0]!)
      const request = await requestOf(env, { stream: 'orders' })
      for (const next of [...steps.slice(1), undefined]) {
        await held.reached()
        await relay.kill()
        await held.breakOff()
        await held.release()
        if (next) held = await holdRequest(env, next)
        relay = await env.relay()
      }
      expect(await endOf(env, request)).toMatchObject({ state: 'done', appended: '2500', gone: '0' })
      expect(await env.ids('orders')).toEqual([...ids, ...ids])
      expect(await leftovers(env)).toBe(0)
    },
  )
}
