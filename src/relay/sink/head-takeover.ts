import type pg from 'pg'
import { pause } from '../../backoff.js'
import { type Position, ZERO_POSITION } from '../../event/position.js'
import { countLost } from '../../postgres/extent.js'
import type { Head } from '../../postgres/heads.js'
import type { Lineage } from '../../postgres/lineage.js'
import type { RedisClient } from '../../redis/connect.js'
import { classifyRedis } from '../../redis/errors.js'
import { requirePrimary } from '../../redis/primary.js'
import { Halt } from '../halt.js'
import { foreign, gap } from '../identity.js'
import type { Ledger } from '../ledger.js'
import type { Publisher } from '../publisher.js'
import { type HeadLook, type HeadOwnership, takeOver } from './head-ownership.js'
import { areUnmoved, HEADS_AT_ONCE, type HeadSurvey, surveyHeads } from './head-survey.js'
import { chainStart, describe, type ServerWal, unknown } from './server-wal.js'

export interface HeadTakeoverOptions {
  ownership: HeadOwnership
  publisher: Publisher
  ledger: Ledger
  lineage: Lineage
  server: ServerWal
  /** Aborted when the session ends. */
  signal: AbortSignal
  /** Why nothing is published meanwhile. */
  blocked(reason: string, message: string): void
  lookAgainAfterMs?: number
}

/**
 * Takes over the heads of all streams that the lineage has published to, and finds what Redis has lost: a head behind
 * its saved head, a stream that ends before it, or is gone.
 *
 *     look at every head ── foreign? record, halt
 *          │            ── unrecorded? wait, look again: moved or renewed elsewhere = foreign
 *          │            ── lost? another connection after 3 s: the same = record every gap, halt
 *     take over, open the queues
 *
 * A connection may lead to a replica or to an old primary for a few seconds, so one look proves no loss. Nothing is
 * written, and nothing published, before every head has been looked at and found whole.
 */
export class HeadTakeover {
  readonly #options: Required<HeadTakeoverOptions>

  constructor(options: HeadTakeoverOptions) {
    this.#options = { lookAgainAfterMs: 3_000, ...options }
  }

  /** Resolves when all are taken over. Rejects with a Halt, an error of Postgres, or when the session ends. */
  async run(saved: ReadonlyMap<string, Head>): Promise<void> {
    const { publisher, signal, lookAgainAfterMs } = this.#options
    let suspected: HeadLook[] = []
    for (;;) {
      signal.throwIfAborted()
      const client = publisher.client
      if (client === undefined) {
        await pause(50, signal)
        continue
      }
      try {
        const survey = await this.#survey(client, saved)
        if (survey.lost.length === 0) return await this.#takeOver(client, saved, survey)
        throwRefusals(survey.lost)
        // A primary that became a replica keeps its connections.
        await requirePrimary(client)
        if (areUnmoved(suspected, survey.lost)) throw await this.#recordLosses(saved, survey.lost)
        suspected = survey.lost
        this.#options.blocked('redis_behind', suspicion(suspected))
        await pause(lookAgainAfterMs, signal)
        publisher.broken(client, suspicion(suspected), 'redis_behind')
      } catch (error) {
        if (error instanceof Halt || (error as { code?: string }).code !== undefined) throw error
        publisher.broken(client, (error as Error).message)
      }
    }
  }

  /** Every head, and none of them of another database. */
  async #survey(client: RedisClient, saved: ReadonlyMap<string, Head>): Promise<HeadSurvey> {
    const { ownership } = this.#options
    const survey = await surveyHeads(client, saved, ownership)
    if (survey.foreign.length > 0) throw await this.#recordForeign(saved, survey.foreign)
    if (survey.unrecorded.length === 0) return survey
    const silent = await ownership.othersAreSilent(client)
    const again = await surveyHeads(client, saved, ownership)
    const strangers = [...again.foreign, ...again.unrecorded]
    if (strangers.length === 0) return again
    if (!silent || !areUnmoved(survey.unrecorded, strangers)) throw await this.#recordForeign(saved, strangers)
    for (const look of again.unrecorded) {
      if (look.reply.status === 'OK') again.known.set(look.key, look.reply.session)
      else again.lost.push(look)
    }
    return again
  }

  async #takeOver(client: RedisClient, saved: ReadonlyMap<string, Head>, { known }: HeadSurvey): Promise<void> {
    const { ownership, publisher, server } = this.#options
    const found = [...known]
    for (let from = 0; from < found.length; from += HEADS_AT_ONCE) {
      await Promise.all(
        found.slice(from, from + HEADS_AT_ONCE).map(async ([key, session]) => {
          const position = positionOf(saved, key)
          const reply = await takeOver(client, key, position, session, ownership)
          if (reply.status === 'ERROR') throw new Error(reply.error)
          if (reply.status !== 'OK') {
            const moved = `${reply.status} at stream ${key}: its head has changed since it was looked at.`
            publisher.broken(client, moved, 'redis_behind')
            throw new Error(moved)
          }
          publisher.open(publisher.lane(key), reply.head, chainStart(reply.head, position, server) as Position)
        }),
      )
    }
  }

  async #recordForeign(saved: ReadonlyMap<string, Head>, looks: HeadLook[]): Promise<Halt> {
    const { lineage, server } = this.#options
    return this.#record(looks, (postgres, { key, owner, reply }) => {
      const detail = { expected: saved.get(key), found: reply.head }
      return owner === 'beyond'
        ? foreign(postgres, lineage, 'wal_beyond', { ...detail, server: describe(server) }, key)
        : foreign(postgres, lineage, 'session_unknown', { ...detail, session: reply.session }, key)
    })
  }

  /** Records every gap before the first is thrown. */
  async #recordLosses(saved: ReadonlyMap<string, Head>, looks: HeadLook[]): Promise<Halt> {
    const { ledger, lineage } = this.#options
    const halt = await this.#record(looks, (postgres, { key, reply }) => {
      const expected = saved.get(key) as Head
      const detail = {
        ...{ expected, found: reply.head, ...(reply.error && { message: reply.error }) },
        // With a message, the head is there and the stream is not.
        ...{ after: reply.error ? null : timeOf(reply.head), until: timeOf(expected) },
      }
      return gap(postgres, lineage, 'stream_behind', detail, key)
    })
    await ledger.inTurn((postgres) => countLost(postgres, lineage))
    return halt
  }

  /** Each use of Postgres is a turn of its own: a look asks the ledger for sessions, and would wait for one around it. */
  async #record(looks: HeadLook[], open: (postgres: pg.ClientBase, look: HeadLook) => Promise<Halt>): Promise<Halt> {
    let first: Halt | undefined
    for (const look of looks) {
      const halt = await this.#options.ledger.inTurn((postgres) => open(postgres, look))
      first ??= halt
    }
    return first as Halt
  }
}

const positionOf = (saved: ReadonlyMap<string, Head>, key: string): Position =>
  saved.get(key)?.position ?? ZERO_POSITION

/** Permission, memory, a failover: it passes, and says nothing about what the stream holds. */
function throwRefusals(looks: readonly HeadLook[]): void {
  for (const { reply } of looks) {
    if (reply.status !== 'ERROR') continue
    const { fate, reason } = classifyRedis(reply.error)
    if (fate === 'halt') throw new Halt(reason, unknown(reply.error))
    if (fate !== 'stream') throw new Error(reply.error)
  }
}

const suspicion = (looks: readonly HeadLook[]): string =>
  `Redis seems to have lost events of ${looks.length} ${looks.length === 1 ? 'stream' : 'streams'}, ` +
  `${looks[0]?.key} among them. Looking again over another connection.`

/** When the head's event was appended, by the clock of Redis; null where there is none. */
const timeOf = ({ entry }: Head): string | null => {
  const time = Number(entry.split('-', 1)[0])
  return time === 0 ? null : new Date(time).toISOString()
}
