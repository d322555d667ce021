import { pause } from '../../backoff.js'
import type { Head } from '../../event/head.js'
import { type Position, ZERO_POSITION } from '../../event/position.js'
import { batchesOf, inBatches } from '../../in-batches.js'
import { countLost } from '../../postgres/extent.js'
import type { IncidentCause } from '../../postgres/incident-reasons.js'
import { openIncidents } from '../../postgres/incidents.js'
import type { Lineage } from '../../postgres/lineage.js'
import type { RedisClient } from '../../redis/connect.js'
import { classifyRedis } from '../../redis/errors.js'
import { requirePrimary } from '../../redis/primary.js'
import { Halt } from '../halt.js'
import { record } from '../identity.js'
import type { Ledger } from '../ledger.js'
import { Loss } from '../loss.js'
import type { Publisher } from '../publisher.js'
import { type HeadLook, type HeadOwnership, takeOver } from './head-ownership.js'
import { areUnmoved, type HeadSurvey, surveyHeads } from './head-survey.js'
import { chainStart, describe, type ServerWal, unknown } from './server-wal.js'

/** Heads that are taken over, or whose saved heads are loaded, at once. */
const HEADS_AT_ONCE = 100

export interface HeadTakeoverOptions {
  ownership: HeadOwnership
  publisher: Publisher
  ledger: Ledger
  lineage: Lineage
  server: ServerWal
  /** Aborted when the session ends. */
  signal: AbortSignal
  /** No head is of another database: whatever it waits for now, this session leads the lineage. */
  undisputed(): void
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
  async run(): Promise<void> {
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
        const survey = await this.#survey(client)
        this.#options.undisputed()
        if (survey.lost.length === 0) return await this.#takeOver(client, survey)
        throwRefusals(survey.lost)
        // A primary that became a replica keeps its connections.
        await requirePrimary(client)
        if (areUnmoved(suspected, survey.lost)) throw await this.#recordLosses(client, survey.lost)
        suspected = survey.lost
        this.#options.blocked('redis_behind', suspicion(suspected))
        await pause(lookAgainAfterMs, signal)
        publisher.broken(client, suspicion(suspected), 'redis_behind')
      } catch (error) {
        if (error instanceof Halt || error instanceof Loss || this.#isOfPostgres(error as Error)) throw error
        publisher.broken(client, (error as Error).message)
      }
    }
  }

  /** Redis is asked again over another connection; the session's own errors, and those of Postgres, end it. */
  #isOfPostgres(error: Error & { code?: string }): boolean {
    return error.code !== undefined || this.#options.ledger.hasFailedWith(error)
  }

  /** Every head, and none of them of another database. */
  async #survey(client: RedisClient): Promise<HeadSurvey> {
    const { ledger, ownership } = this.#options
    const survey = await surveyHeads(client, ledger.savedHeads(), ownership)
    if (survey.foreign.length > 0) throw await this.#recordForeign(survey.foreign)
    if (survey.unrecorded.length === 0) return survey
    const silent = await ownership.othersAreSilent(client)
    const again = await surveyHeads(client, ledger.savedHeads(), ownership)
    const strangers = [...again.foreign, ...again.unrecorded]
    if (strangers.length === 0) return again
    if (!silent || !areUnmoved(survey.unrecorded, strangers)) throw await this.#recordForeign(strangers)
    for (const look of again.unrecorded) {
      if (look.reply.status === 'OK') again.known.set(look.key, { session: look.reply.session, saved: look.saved })
      else again.lost.push(look)
    }
    return again
  }

  async #takeOver(client: RedisClient, { known }: HeadSurvey): Promise<void> {
    const { ownership, publisher, server } = this.#options
    await inBatches(known, HEADS_AT_ONCE, async ([key, { session, saved }]) => {
      const reply = await takeOver(client, key, saved, session, ownership)
      if (reply.status === 'ERROR') throw new Error(reply.error)
      if (reply.status !== 'OK') {
        const moved = `${reply.status} at stream ${key}: its head has changed since it was looked at.`
        publisher.broken(client, moved, 'redis_behind')
        throw new Error(moved)
      }
      publisher.tookOver(key, reply.head, chainStart(reply.head, saved, server) as Position)
    })
  }

  async #recordForeign(looks: HeadLook[]): Promise<Error> {
    const { server } = this.#options
    return this.#record(looks, ({ owner, reply }, expected) => {
      const detail = { expected, found: reply.head }
      return owner === 'beyond'
        ? { kind: 'foreign', reason: 'wal_beyond', detail: { ...detail, server: describe(server) } }
        : { kind: 'foreign', reason: 'session_unknown', detail: { ...detail, session: reply.session } }
    })
  }

  /** Records every gap before the first is thrown. */
  async #recordLosses(client: RedisClient, looks: HeadLook[]): Promise<Error> {
    const { ledger, lineage } = this.#options
    const withoutHead = await streamsWithoutHead(client, looks)
    const halt = await this.#record(looks, ({ key, reply }, expected) => ({
      kind: 'gap',
      reason: 'stream_behind',
      detail: {
        ...{ expected, found: reply.head, ...(reply.error && { message: reply.error }) },
        // With a message, the head is there and the stream is not.
        ...{ after: reply.error ? null : timeOf(reply.head), until: expected ? timeOf(expected) : null },
        ...(withoutHead.has(key) && { message: HEAD_ALONE, events: null }),
      },
    }))
    await ledger.inTurn((postgres) => countLost(postgres, lineage))
    return halt
  }

  /**
   * Each use of Postgres is a turn of its own: a look asks the ledger for sessions, and would wait for one around it. No
   * incident where another session leads now: it may have written those heads since this one began.
   */
  async #record(
    looks: HeadLook[],
    toIncident: (look: HeadLook, saved: Head | undefined) => IncidentCause & { detail: object },
  ): Promise<Error> {
    const { ledger, lineage } = this.#options
    const [found] = looks
    if (found && !(await ledger.leads())) return new Loss('OTHER', found.key, found.reply, found.saved)
    let first: (IncidentCause & { detail: object; stream: string }) | undefined
    for (const batch of batchesOf(looks, HEADS_AT_ONCE)) {
      const saved = await ledger.savedHeadsOf(batch.map(({ key }) => key))
      const incidents = batch.map((look) => ({ stream: look.key, ...toIncident(look, saved.get(look.key)) }))
      first ??= incidents[0]
      const { kind } = incidents[0]!
      await ledger.inTurn((postgres) => openIncidents(postgres, lineage.lineage, kind, incidents))
    }
    return ledger.inTurn((postgres) => record(postgres, lineage, first!, first!))
  }
}

const HEAD_ALONE = 'the head is gone and its stream is there: how many events are lost is not known'

/** Streams that are there while their head is not: what they hold cannot be told from the saved head. */
async function streamsWithoutHead(client: RedisClient, looks: readonly HeadLook[]): Promise<Set<string>> {
  const found = new Set<string>()
  const headless = looks.filter(({ reply }) => reply.head.position === ZERO_POSITION && reply.error === '')
  await inBatches(headless, HEADS_AT_ONCE, async ({ key }) => {
    try {
      await client.xinfo('STREAM', key)
      found.add(key)
    } catch (error) {
      if (!/no such key/i.test((error as Error).message)) throw error
    }
  })
  return found
}

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
