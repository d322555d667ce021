import { readFileSync } from 'node:fs'
import type pg from 'pg'
import { expect, onTestFinished, test } from 'vitest'
import { sqlState } from '../../src/postgres/client/transaction.js'
import { BUCKETS, emptyBucket, readBuckets } from '../../src/postgres/outbox/buckets.js'
import { pruneCheckpoints } from '../../src/postgres/state/checkpoints.js'
import { bytesOf, planRetention } from '../../src/relay/retention/retention-plan.js'
import { needsProcess, startPostgres, until } from '../../testkit/services/index.js'
import { type BucketsEnv, createBucketsEnv } from '../postgres/buckets-env.js'

const ROTATIONS = 1_000
const ROTATION_HOURS = 4
/** Of these the first pass by the hour, and nothing is in the way: they show how old rows get. */
const QUIET_ROTATIONS = 60
const SETTINGS = { retention: 72 * 3_600_000, retentionMaxSize: Number.POSITIVE_INFINITY, isRetentionSet: true }
const WRITERS = 3
const ROWS_PER_HOUR = 6

/** What is in the way in which rotations of each hundred. The slot stands still for longer than a cycle of 24. */
const LONG_TRANSACTION = { from: 5, to: 15 }
const DUMP = { from: 20, to: 24 }
const STALLED_SLOT = { from: 30, to: 58 }

/** The outbox, those who use it, and what is known of its rows. The clock is that of the test. */
class Year {
  readonly #env: BucketsEnv
  readonly #lineage: string
  readonly #relay: pg.Client
  readonly #writers: pg.Client[]
  /** Committed, and not given by the slot yet. */
  readonly #unpublished = new Set<string>()
  #taken: { lsn: string; snapshot: string } | undefined
  #hour = 0
  emptied = 0
  inserted = 0
  published = 0
  /** In hours, of the youngest and of the oldest row when its bucket was emptied. */
  readonly ages: [number, number][] = []

  constructor(env: BucketsEnv, lineage: string, relay: pg.Client, writers: pg.Client[]) {
    this.#env = env
    this.#lineage = lineage
    this.#relay = relay
    this.#writers = writers
  }

  get rotation(): number {
    return Math.floor(this.#hour / ROTATION_HOURS)
  }

  get unpublished(): number {
    return this.#unpublished.size
  }

  /** Rows are inserted while buckets are emptied, then some hours have passed. */
  async pass(hours: number, isStalled = false): Promise<void> {
    const { client, setCurrent } = this.#env
    await setCurrent(this.rotation % BUCKETS.length)
    const insertAll = async (writer: pg.Client) => {
      for (let n = 0; n < (ROWS_PER_HOUR * hours) / WRITERS; n++) this.committed(await insert(writer))
    }
    const before = this.emptied
    await Promise.all([this.#empty(), ...this.#writers.map(insertAll)])
    if (this.emptied > before) await this.#expectUnpublished()
    this.#hour += hours
    await client.query(`update outrider.checkpoint set taken_at = taken_at - make_interval(hours => ${hours})`)
    if (!isStalled) await this.publish()
  }

  committed(id: string): void {
    this.#unpublished.add(id)
    this.inserted++
  }

  /** As a relay: what the slot gives, the checkpoint that was taken before, and the next one. */
  async publish(): Promise<void> {
    const { client, slot } = this.#env
    const { rows } = await this.#relay.query(
      `select data from pg_logical_slot_get_binary_changes($1, null, null, 'proto_version', '1', 'publication_names', 'outrider')`,
      [slot],
    )
    for (const { data } of rows) {
      if (data[0] !== 'I'.charCodeAt(0)) continue
      const [id = ''] = /[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/.exec(data.toString('latin1')) ?? []
      if (!this.#unpublished.delete(id)) throw new Error(`Expected one row of an event, found another of ${id}.`)
      this.published++
    }
    if (this.#taken !== undefined) {
      await client.query('insert into outrider.checkpoint (lineage, lsn, snapshot) values ($1, $2, $3)', [
        this.#lineage,
        this.#taken.lsn,
        this.#taken.snapshot,
      ])
    }
    const taken = await client.query(
      'select pg_current_snapshot()::text as snapshot, pg_current_wal_insert_lsn()::text as lsn',
    )
    this.#taken = taken.rows[0]
  }

  /** As a round of retention; but it asks for the oldest three alone, and only once. */
  async #empty(): Promise<void> {
    const plan = planRetention(await readBuckets(this.#relay), SETTINGS, true)
    if (plan.action !== 'empty') throw new Error(`Expected buckets to be asked for, found ${plan.reason}.`)
    await pruneCheckpoints(this.#relay, this.#lineage, plan.windowMs)
    for (const bucket of plan.buckets.slice(0, 3)) {
      if ((await emptyBucket(this.#relay, bucket, plan.windowMs)) !== 'emptied') continue
      this.emptied++
      const rotationsAgo = (this.rotation - bucket + ROTATIONS * BUCKETS.length) % BUCKETS.length
      const oldest = this.#hour - (this.rotation - rotationsAgo) * ROTATION_HOURS
      this.ages.push([oldest - ROTATION_HOURS, oldest])
    }
  }

  /** Every row that is not published is in the table. */
  async #expectUnpublished(): Promise<void> {
    const { rows } = await this.#env.client.query(
      'select count(*)::int as rows from outrider.outbox where id = any ($1)',
      [[...this.#unpublished]],
    )
    expect(rows).toEqual([{ rows: this.#unpublished.size }])
  }
}

async function insert(writer: pg.Client): Promise<string> {
  const { rows } = await writer.query(
    "insert into outrider.outbox (stream, type, data) values ('orders', 'placed', to_json(repeat('x', 1000))) returning id",
  )
  return rows[0].id
}

/** Reads the table on a standby until the signal aborts, also after replay has cancelled it. Resolves with how often it did. */
async function readStandby(reader: pg.Client, signal: AbortSignal): Promise<number> {
  let cancelled = 0
  while (!signal.aborted) {
    try {
      // The lock is held while it sleeps.
      await reader.query('select count(*), pg_sleep(0.1) from outrider.outbox')
    } catch (error) {
      if (sqlState(error) !== '40001') throw error
      cancelled++
    }
  }
  return cancelled
}

test(`${ROTATIONS} rotations of the buckets, with long transactions, dumps, a slot that lags and a standby that is read: no insert waits, the size is flat, nothing unpublished is emptied`, async (context) => {
  needsProcess(context)
  const settings = { deadlock_timeout: '50ms', log_lock_waits: 'on' }
  const server = await startPostgres({ syncs: false, settings })
  onTestFinished(() => server.remove())
  const env = await createBucketsEnv(server)
  const clients: pg.Client[] = []
  const connect = async (to = server) => {
    const client = await to.connect(env.database.name)
    clients.push(client)
    return client
  }
  onTestFinished(async () => {
    for (const client of clients) await client.end().catch(() => {})
  })
  const standby = await startPostgres({
    ...{ standbyOf: server, syncs: false },
    settings: { max_standby_streaming_delay: '100ms' },
  })
  onTestFinished(() => standby.remove())
  const [relay, long, dump] = [await connect(), await connect(), await connect()]
  const writers = await Promise.all(Array.from({ length: WRITERS }, () => connect()))
  const { rows } = await env.client.query('select lineage from outrider.lineage')
  const year = new Year(env, rows[0].lineage, relay, writers)
  const end = new AbortController()
  const reading = readStandby(await connect(standby), end.signal)
  // Awaited below.
  reading.catch(() => {})

  while (year.rotation < QUIET_ROTATIONS) await year.pass(1)
  // What docs/operations.md says.
  expect(Math.min(...year.ages.map(([youngest]) => youngest))).toBeGreaterThanOrEqual(72)
  expect(Math.max(...year.ages.map(([, oldest]) => oldest))).toBeLessThanOrEqual(77)
  expect(year.emptied).toBe(QUIET_ROTATIONS - 19)

  const sizes: number[] = []
  let waiting: string | undefined
  for (; year.rotation < ROTATIONS; ) {
    const turn = year.rotation % 100
    if (turn === LONG_TRANSACTION.from) {
      await long.query('begin')
      waiting = await insert(long)
    }
    if (turn === LONG_TRANSACTION.to && waiting !== undefined) {
      await long.query('commit')
      year.committed(waiting)
    }
    if (turn === DUMP.from) {
      // As pg_dump does.
      await dump.query(
        'begin isolation level repeatable read read only; lock table outrider.outbox in access share mode',
      )
      await dump.query('select * from outrider.outbox')
    }
    if (turn === DUMP.to) await dump.query('commit')
    await year.pass(ROTATION_HOURS, turn >= STALLED_SLOT.from && turn < STALLED_SLOT.to)
    if (turn === 99) sizes.push(bytesOf(await readBuckets(env.client)))
  }
  await year.publish()
  expect([year.unpublished, year.published]).toEqual([0, year.inserted])
  expect(year.emptied).toBeGreaterThan(600)
  expect(Math.max(...sizes)).toBeLessThan(Math.min(...sizes) * 1.25)

  const last = await insert(writers[0]!)
  end.abort()
  expect(await reading).toBeGreaterThan(0)
  const onStandby = await connect(standby)
  await until(async () => (await onStandby.query('select from outrider.outbox where id = $1', [last])).rowCount === 1, {
    message: 'the standby to have replayed everything',
  })

  // A wait is seen.
  const pids = await Promise.all(
    writers.map(async (writer) => (await writer.query('select pg_backend_pid() as pid')).rows[0].pid as number),
  )
  const waits = () =>
    readFileSync(server.log, 'utf8')
      .split('\n')
      .filter(
        (line) => pids.some((pid) => line.includes(`process ${pid} still waiting`)) && line.includes(' on relation '),
      )
  expect(waits()).toEqual([])
  await env.client.query('begin; lock table outrider.outbox in access exclusive mode')
  const inserting = insert(writers[0]!)
  await until(() => waits().length === 1)
  await env.client.query('rollback')
  await inserting
  await env.close()
})
