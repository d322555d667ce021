import type pg from 'pg'
import type { PostgresConfig } from '../config/schema.js'
import type { Head } from '../event/head.js'
import { type Checkpoint, saveCheckpoint, takeCheckpoint } from '../postgres/checkpoints.js'
import { connectPostgres, endPostgres, NO_TRANSACTION_TIMEOUT } from '../postgres/connect.js'
import { loadHeads, loadHeadsAfter, saveProgress } from '../postgres/heads.js'
import { openIncidents } from '../postgres/incidents.js'
import type { Lineage } from '../postgres/lineage.js'
import type { Lsn } from '../postgres/lsn.js'
import { cancelStandbyWait, recordSession } from '../postgres/sessions.js'
import type { Query } from './lock.js'
import type { Rejection } from './rejection.js'

/** How often a checkpoint is taken, in milliseconds, while events flow. */
const CHECKPOINT_EVERY = 60_000

/** Longer than statement_timeout: what takes this long, in milliseconds, is lost on the way. */
const ANSWER_WITHIN = 35_000

/** A connection for the relay's own statements. Throws where the server is not a primary. */
export async function connectLedger(config: PostgresConfig, name: string): Promise<pg.Client> {
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

/** What a session writes to Postgres, over one ordinary connection, one statement after the other. */
export class Ledger {
  readonly #client: pg.Client
  readonly #lineage: Lineage
  readonly #session: string
  readonly #walsender: number
  readonly #owned = new Set<string>()
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
    this.#owned.add(session)
  }

  /** Runs `work` when everything before it is through. */
  inTurn<T>(work: (client: pg.Client) => Promise<T>): Promise<T> {
    const turn = this.#turn.then(() => work(this.#client))
    this.#turn = turn.catch((error) => {
      if (typeof error === 'object' && error !== null) this.#failures.add(error)
    })
    return turn
  }

  /** Did a turn of this ledger fail with this error? Those of a broken connection bear no code that says so. */
  hasFailedWith(error: object): boolean {
    return this.#failures.has(error)
  }

  /**
   * Records the session. Before its first append: a head that bears another session was written by somebody else.
   * `other`: another connection. Resolves with whether the wait for a synchronous standby had to be cancelled.
   */
  begin(version: string, timeline: number, other: Query): Promise<boolean> {
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
    const lock = "select from pg_locks where locktype = 'advisory' and granted and pid = $1"
    const { rowCount } = await client.query(lock, [this.#walsender])
    return rowCount !== 0
  }

  /** Did this database issue the session, for this lineage? */
  async owns(session: string): Promise<boolean> {
    if (this.#owned.has(session)) return true
    const { rowCount } = await this.inTurn((client) =>
      client.query('select from outrider.session where session::text = $1 and lineage = $2', [
        session,
        this.#lineage.lineage,
      ]),
    )
    if (rowCount) this.#owned.add(session)
    return Boolean(rowCount)
  }

  /** The saved heads, in pages of which each is a turn of its own. */
  async *savedHeads(): AsyncGenerator<ReadonlyMap<string, Head>> {
    for (let after: string | undefined = ''; after !== undefined; ) {
      const from: string = after
      const page = await this.inTurn((client) => loadHeadsAfter(client, this.#lineage.lineage, from))
      yield page
      after = [...page.keys()].at(-1)
    }
  }

  savedHeadsOf(keys: readonly string[]): Promise<ReadonlyMap<string, Head>> {
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
      await this.inTurn((client) => saveCheckpoint(client, this.#lineage.lineage, taken))
      this.#checkpoint = undefined
    }
    if (this.#checkpoint === undefined && now - this.#checkpointAt >= CHECKPOINT_EVERY) {
      this.#checkpoint = await this.inTurn(takeCheckpoint)
      this.#checkpointAt = now
    }
  }
}
