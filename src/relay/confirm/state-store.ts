import type pg from 'pg'
import type { PostgresConfig } from '../../config/schema.js'
import type { Head } from '../../event/head.js'
import { connectPostgres, endPostgres, NO_TRANSACTION_TIMEOUT } from '../../postgres/client/connect.js'
import type { Lsn } from '../../postgres/client/lsn.js'
import { type Checkpoint, saveCheckpoint, takeCheckpoint } from '../../postgres/state/checkpoints.js'
import { loadHeads, loadHeadsAfter, type SavedHead, saveProgress } from '../../postgres/state/heads.js'
import { openIncidents } from '../../postgres/state/incidents.js'
import type { Lineage } from '../../postgres/state/lineage.js'
import { cancelStandbyWait, holdsLock, readSessionNumber, recordSession } from '../../postgres/state/sessions.js'
import type { Rejection } from '../sink/rejection.js'
import type { ReplicationQuery } from '../source/leader-lock.js'

/** How often a checkpoint is taken, in milliseconds, while events flow. */
const CHECKPOINT_EVERY = 60_000

/** Longer than statement_timeout: what takes this long, in milliseconds, is lost on the way. */
const ANSWER_WITHIN = 35_000

/** A connection for the relay's own statements. Throws where the server is not a primary. */
export async function connectStateStore(config: PostgresConfig, name: string): Promise<pg.Client> {
  const client = await connectPostgres(config, name, ANSWER_WITHIN)
  // The relay's own small writes must neither wait for a synchronous standby (but for the session) nor be refused by a
  // default.
  await client.query(
    "set synchronous_commit = local; set default_transaction_read_only = off; set statement_timeout = '30s'; " +
      "set lock_timeout = '5s'; set idle_in_transaction_session_timeout = '30s'; set idle_session_timeout = 0; " +
      NO_TRANSACTION_TIMEOUT,
  )
  const { rows } = await client.query('select pg_is_in_recovery() as standby')
  if (!rows[0].standby) return client
  await endPostgres(client)
  throw new Error('Expected a primary, found a server in recovery.')
}

/** A connection for a repair: as `connectStateStore`, and a statement may take as long as it needs. */
export async function connectRepair(config: PostgresConfig, name: string): Promise<pg.Client> {
  const client = await connectPostgres(config, name)
  await client.query(
    'set synchronous_commit = local; set default_transaction_read_only = off; set statement_timeout = 0; ' +
      "set idle_in_transaction_session_timeout = '60s'; set idle_session_timeout = 0; " +
      NO_TRANSACTION_TIMEOUT,
  )
  // So that a wait for locks ends with the connection. Not every platform can look after it.
  await client.query("set client_connection_check_interval = '2s'").catch(() => {})
  return client
}

/** What a session writes to Postgres, over one ordinary connection, one statement after the other. */
export class StateStore {
  readonly #client: pg.Client
  readonly #lineage: Lineage
  readonly #session: string
  readonly #walsender: number
  /** The numbers of sessions that this database issued. */
  readonly #numbers = new Map<string, number>()
  readonly #failures = new WeakSet<object>()
  #turn: Promise<unknown> = Promise.resolve()
  #checkpoint: Checkpoint | undefined
  #checkpointAt = Number.NEGATIVE_INFINITY

  /** `walsender`: the process id of the replication connection, which holds the lock. */
  constructor(client: pg.Client, lineage: Lineage, session: string, walsender: number) {
    this.#client = client
    this.#lineage = lineage
    this.#session = session
    this.#walsender = walsender
  }

  get lineage(): Lineage {
    return this.#lineage
  }

  /** Lineage and session, by their ids. */
  get own(): { lineage: string; session: string } {
    return { lineage: this.#lineage.lineage, session: this.#session }
  }

  /** The process id of the replication connection, which holds the lock. */
  get walsender(): number {
    return this.#walsender
  }

  /** Runs `work` when everything before it is through. */
  inTurn<T>(work: (client: pg.Client) => Promise<T>): Promise<T> {
    const turn = this.#turn.then(() => work(this.#client))
    this.#turn = turn.catch((error) => {
      if (typeof error === 'object' && error !== null) this.#failures.add(error)
    })
    return turn
  }

  /** Did a turn of this state store fail with this error? Those of a broken connection bear no code that says so. */
  hasFailedWith(error: object): boolean {
    return this.#failures.has(error)
  }

  /**
   * Records the session. Before its first append: a head that bears another session was written by someone else.
   * `other`: another connection. Resolves with whether the wait for a synchronous standby had to be cancelled.
   */
  begin(version: string, timeline: number, other: ReplicationQuery): Promise<boolean> {
    const row = { session: this.#session, lineage: this.#lineage.lineage, version, timeline }
    return this.inTurn((client) => recordSession(client, row, (pid) => other(cancelStandbyWait(pid))))
  }

  /**
   * Does this session still hold the lock? A relay that does not read may not hear that its connection was closed. While it
   * holds the lock it has held it since it began, so no other session of this database has published in between.
   */
  leads(): Promise<boolean> {
    return this.inTurn((client) => this.holdsLock(client))
  }

  /** The same, for work whose turn it is. */
  async holdsLock(client: pg.ClientBase): Promise<boolean> {
    const { rows } = await client.query<{ held: boolean }>(`select ${holdsLock('$1')} as held`, [this.#walsender])
    return rows[0]!.held
  }

  /** Did this database issue the session, for this lineage? */
  async owns(session: string): Promise<boolean> {
    return session === this.#session || (await this.numberOf(session)) !== undefined
  }

  /** Sessions are numbered in the order in which they began; undefined where this database did not issue it for this lineage. */
  async numberOf(session: string): Promise<number | undefined> {
    const known = this.#numbers.get(session)
    if (known !== undefined) return known
    const number = await this.inTurn((client) => readSessionNumber(client, this.#lineage.lineage, session))
    if (number !== undefined) this.#numbers.set(session, number)
    return number
  }

  /** The saved heads, in pages of which each is a turn of its own. */
  async *savedHeads(): AsyncGenerator<ReadonlyMap<string, SavedHead>> {
    for (let after: string | undefined = ''; after !== undefined; ) {
      const from: string = after
      const page = await this.inTurn((client) => loadHeadsAfter(client, this.#lineage.lineage, from))
      yield page
      after = [...page.keys()].at(-1)
    }
  }

  savedHeadsOf(keys: readonly string[]): Promise<ReadonlyMap<string, SavedHead>> {
    return this.inTurn((client) => loadHeads(client, this.#lineage.lineage, keys))
  }

  save(confirmed: Lsn, heads: ReadonlyMap<string, Head>): Promise<void> {
    const progress = { lineage: this.#lineage.lineage, session: this.#session, confirmed, heads }
    return this.inTurn((client) => saveProgress(client, progress))
  }

  reject(rejections: Rejection[]): Promise<void> {
    const incidents = rejections.map(({ stream, eventId, message, omitted, ...rest }) => ({
      ...rest,
      detail: {
        ...(message === undefined ? {} : { message }),
        ...(Object.keys(omitted).length === 0 ? {} : { omitted }),
      },
      ...(stream === undefined ? {} : { stream }),
      ...(eventId === undefined ? {} : { eventId }),
    }))
    return this.inTurn((client) => openIncidents(client, this.#lineage.lineage, 'rejected', incidents))
  }

  /** Called when something was confirmed: takes a checkpoint now and then, and keeps it once the slot is past it. */
  async checkpoint(confirmed: Lsn, now: number): Promise<void> {
    const taken = this.#checkpoint
    if (taken && confirmed >= taken.lsn) {
      await this.inTurn((client) => saveCheckpoint(client, this.#lineage.lineage, this.#session, taken))
      this.#checkpoint = undefined
    }
    if (this.#checkpoint === undefined && now - this.#checkpointAt >= CHECKPOINT_EVERY) {
      this.#checkpoint = await this.inTurn(takeCheckpoint)
      this.#checkpointAt = now
    }
  }
}
