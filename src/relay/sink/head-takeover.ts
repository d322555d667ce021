import { pause } from '../../base/backoff.js'
import { batchesOf, inBatches } from '../../base/in-batches.js'
import type { Head } from '../../event/head.js'
import { type Position, ZERO_POSITION } from '../../event/position.js'
import type { Lsn } from '../../postgres/client/lsn.js'
import { newestCheckpoints } from '../../postgres/state/checkpoints.js'
import { headText, recordLostStreams } from '../../postgres/state/gaps.js'
import type { IncidentCause } from '../../postgres/state/incident-reasons.js'
import { openIncidents } from '../../postgres/state/incidents.js'
import type { Lineage } from '../../postgres/state/lineage.js'
import { countLost } from '../../postgres/state/loss-estimate.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { classifyRedis } from '../../redis/client/errors.js'
import { requirePrimary } from '../../redis/client/primary.js'
import type { StateStore } from '../confirm/state-store.js'
import { HaltError } from '../errors.js'
import { haltFor, record } from '../identity.js'
import { type HeadLook, type HeadOwnership, hasSoundEnd, takeOver } from './head-ownership.js'
import { areUnmoved, type HeadSurvey, surveyHeads } from './head-survey.js'
import { LossError } from './loss.js'
import type { Publisher } from './publisher.js'
import { chainStart, describeServerWal, type ServerWal, unknownRedisError } from './server-wal.js'
import { endOfLost } from './sound-end.js'

/** Heads that are taken over, or whose saved heads are loaded, at once. */
const HEADS_AT_ONCE = 100

export interface HeadTakeoverOptions {
  ownership: HeadOwnership
  publisher: Publisher
  stateStore: StateStore
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

  /** Resolves when all are taken over. Rejects with a HaltError, an error of Postgres, or when the session ends. */
  async run(): Promise<void> {
    const { publisher, signal, lookAgainAfterMs } = this.#options
    let suspected: HeadLook[] = []
    for (;;) {
      const client = await publisher.connected(signal)
      signal.throwIfAborted()
      if (client === undefined) continue
      try {
        const survey = await this.survey(client)
        this.#options.undisputed()
        if (survey.lost.length === 0) return await this.#takeOver(client, survey)
        throwRefusals(survey.lost)
        // A primary that became a replica keeps its connections.
        await requirePrimary(client)
        if (areUnmoved(suspected, survey.lost)) throw await this.recordLosses(client, survey.lost)
        suspected = survey.lost
        this.#options.blocked('redis_behind', suspicion(suspected))
        await pause(lookAgainAfterMs, signal)
        publisher.broken(client, suspicion(suspected), 'redis_behind')
      } catch (error) {
        if (error instanceof HaltError || error instanceof LossError || this.#isOfPostgres(error as Error)) throw error
        publisher.broken(client, (error as Error).message)
      }
    }
  }

  /** Redis is asked again over another connection; the session's own errors, and those of Postgres, end it. */
  #isOfPostgres(error: Error & { code?: string }): boolean {
    return error.code !== undefined || this.#options.stateStore.hasFailedWith(error)
  }

  /** Looks at every head. Rejects with a HaltError where another database wrote one. */
  async survey(client: RedisClient): Promise<HeadSurvey> {
    const { stateStore, ownership } = this.#options
    const survey = await surveyHeads(client, stateStore.savedHeads(), ownership)
    if (survey.foreign.length > 0) throw await this.recordForeign(survey.foreign)
    if (survey.unrecorded.length === 0) return survey
    const silent = await ownership.othersAreSilent(client)
    const again = await surveyHeads(client, stateStore.savedHeads(), ownership)
    const strangers = [...again.foreign, ...again.unrecorded]
    if (strangers.length === 0) return again
    if (!silent || !areUnmoved(survey.unrecorded, strangers)) throw await this.recordForeign(strangers)
    for (const look of again.unrecorded) {
      if (look.reply.status === 'OK') again.known.set(look.key, { session: look.reply.session, saved: look.saved })
      else again.lost.push(look)
    }
    return again
  }

  async #takeOver(client: RedisClient, { known }: HeadSurvey): Promise<void> {
    const { ownership, publisher, server, stateStore } = this.#options
    const accepted = new Map<string, Head>()
    await inBatches(known, HEADS_AT_ONCE, async ([key, { session, saved }]) => {
      const reply = await takeOver(client, key, saved, session, ownership)
      if (reply.status === 'ERROR') throw new Error(reply.error)
      if (reply.status !== 'OK') {
        const moved = `${reply.status} at stream ${key}: its head has changed since it was looked at.`
        publisher.broken(client, moved, 'redis_behind')
        throw new Error(moved)
      }
      const { head } = reply
      if (head.position === ZERO_POSITION) return
      const chain = chainStart(head, saved, server) as Position
      publisher.tookOver(key, head, chain)
      // A head whose row is read again is saved with it.
      if (saved === ZERO_POSITION && chain === head.position) accepted.set(key, head)
    })
    if (accepted.size > 0) await stateStore.save(server.confirmed, accepted)
  }

  /** Gives what to throw. */
  async recordForeign(looks: HeadLook[]): Promise<Error> {
    const { stateStore, lineage, server } = this.#options
    const toIncident = ({ key, owner, reply }: HeadLook, saved: Head | undefined): IncidentCause & LostStream => {
      const detail = { expected: saved, found: reply.head }
      return owner === 'beyond'
        ? {
            kind: 'foreign',
            reason: 'wal_beyond',
            stream: key,
            detail: { ...detail, server: describeServerWal(server) },
          }
        : { kind: 'foreign', reason: 'session_unknown', stream: key, detail: { ...detail, session: reply.session } }
    }
    let first: (IncidentCause & LostStream) | undefined
    const notLeading = await this.#inPages(looks, async (batch, saved) => {
      const incidents = batch.map((look) => toIncident(look, saved.get(look.key)))
      first ??= incidents[0]
      await stateStore.inTurn((postgres) => openIncidents(postgres, lineage.lineage, 'foreign', incidents))
    })
    return notLeading ?? stateStore.inTurn((postgres) => record(postgres, lineage, first!, first!))
  }

  /** One gap with all streams. Gives what to throw. */
  async recordLosses(client: RedisClient, looks: HeadLook[]): Promise<Error> {
    const { stateStore, lineage } = this.#options
    const withoutHead = await streamsWithoutHead(client, looks)
    let id = ''
    const notLeading = await this.#inPages(looks, async (batch, saved) => {
      const ends = await Promise.all(batch.map((look) => this.#soundEndOf(client, look)))
      id = await stateStore.inTurn(async (postgres) => {
        const bounds = await newestCheckpoints(postgres, lineage.lineage, ends)
        const streams = batch.map((look, i) => ({
          key: look.key,
          ...(bounds[i] ?? { snapshot: null, since: null }),
          head: headText(look.reply.head),
          detail: describeLoss(look, saved.get(look.key), withoutHead),
        }))
        return recordLostStreams(postgres, { lineage: lineage.lineage, walsender: stateStore.walsender }, streams)
      })
    })
    if (notLeading) return notLeading
    await stateStore.inTurn((postgres) => countLost(postgres, lineage))
    return stateStore.inTurn((postgres) =>
      haltFor(postgres, lineage, { id, kind: 'gap', reason: 'stream_behind', stream: null, detail: {} }),
    )
  }

  /** The LSN of the head that is left, where the stream has lost its end alone. */
  async #soundEndOf(client: RedisClient, look: HeadLook): Promise<Lsn | null> {
    const { ownership, server } = this.#options
    const lsn = endOfLost(look.reply, server.history.current)
    return lsn !== null && (await hasSoundEnd(client, look, ownership)) ? lsn : null
  }

  /**
   * Each use of Postgres is a turn of its own: a look asks the state store for sessions, and would wait for one around it. No
   * incident where another session leads now: it may have written those heads since this one began. Then it gives an error.
   */
  async #inPages(
    looks: HeadLook[],
    work: (batch: HeadLook[], saved: ReadonlyMap<string, Head>) => Promise<void>,
  ): Promise<Error | undefined> {
    const { stateStore } = this.#options
    const [found] = looks
    if (found && !(await stateStore.leads())) return new LossError('OTHER', found.key, found.reply, found.saved)
    for (const batch of batchesOf(looks, HEADS_AT_ONCE)) {
      await work(batch, await stateStore.savedHeadsOf(batch.map(({ key }) => key)))
    }
    return undefined
  }
}

interface LostStream {
  stream: string
  detail: object
}

function describeLoss({ key, reply }: HeadLook, expected: Head | undefined, withoutHead: ReadonlySet<string>): object {
  return {
    ...{ expected, found: reply.head, ...(reply.error && { message: reply.error }) },
    // With a message, the head is there and the stream is not.
    ...{ after: reply.error ? null : timeOf(reply.head), until: expected ? timeOf(expected) : null },
    ...(withoutHead.has(key) && { message: HEAD_ALONE, events: null }),
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
export function throwRefusals(looks: readonly HeadLook[]): void {
  for (const { reply } of looks) {
    if (reply.status !== 'ERROR') continue
    const { policy, reason } = classifyRedis(reply.error)
    if (policy === 'halt') throw new HaltError(reason, unknownRedisError(reply.error))
    if (policy !== 'stream') throw new Error(reply.error)
  }
}

const suspicion = (looks: readonly HeadLook[]): string =>
  `Redis seems to have lost events of ${looks.length === 1 ? 'stream' : `${looks.length} streams, among them`} ${looks[0]?.key}. Looking again over another connection.`

/** When the head's event was appended, by the clock of Redis; null where there is none. */
const timeOf = ({ entry }: Head): string | null => {
  const time = Number(entry.split('-', 1)[0])
  return time === 0 ? null : new Date(time).toISOString()
}
