import type pg from 'pg'
import { OWN_OUTBOX } from '../config/schema.js'
import { policyKey, UUID } from '../event/names.js'
import { isPlace, POSITION, type Position } from '../event/position.js'
import { BUCKETS } from '../postgres/outbox/buckets.js'
import { hasTxidIndex } from '../postgres/outbox/txid-index.js'
import { mayTrim } from '../postgres/state/horizons.js'
import { readPartitions } from '../postgres/state/partitions.js'
import { Snapshot } from '../postgres/state/snapshot.js'
import type { SampledRange, SampleFinding, SampleOptions, SampleReport } from '../relay/self-audit/audit-sample.js'
import { readRejected } from './bounds.js'
import { type Digest, digestOf, sameDigest } from './digest.js'
import { type AuditedEntry, auditedEntryOf, readFacts, readPages } from './entries.js'
import { OutboxRows } from './rows.js'
import { type KnownStreams, readStreams, TrimmedRows } from './streams.js'

/** Rows of a round. */
const MAX_ROWS = 1_000
/** Entries that are read where the rows should have theirs, before all of the stream is read. */
const MAX_ENTRIES = 100_000
/** Entries of other rows that are looked up in the table. */
const MAX_OTHERS = 5_000
/** A row may get its time a while before its entry, in milliseconds; by this clock or that. */
const MARGIN_MS = 5_000

/** A row, and what was seen of it in its stream. */
interface Sampled {
  stream: string
  id: string
  xid: bigint
  time: number | undefined
  digest: Digest
  seen: 'not' | 'same' | 'altered'
}

/**
 * Compares some rows that were published between two checkpoints with their streams:
 *
 *     rows by the index of transactions ── the entries of that time, until each row has its own
 *     rows that lack it, or differ from it ── all of their stream ── rejected? trimmed? still a row, and the same?
 *     entries between those of the rows ── have they a row?
 *
 * Undefined: nothing can be said, since there are no such checkpoints, or a gap is open, or another session leads.
 */
export async function auditSample(options: SampleOptions): Promise<SampleReport | undefined> {
  const { postgres, lineage, session } = options
  if (!(await hasTxidIndex(postgres))) return undefined
  await postgres.query("set statement_timeout = '30s'")
  const range = options.range ?? (await chooseRange(options))
  if (!range) return undefined
  const partitions = await readPartitions(postgres)
  const rows = new OutboxRows(postgres, { mapping: OWN_OUTBOX, source: lineage.source, partitions })
  const sample = new Sample(options, rows)
  await sample.read(range)
  const findings = await sample.compare(range)
  if (!(await mayTrim(postgres, { lineage: lineage.lineage, session }))) return undefined
  return { range, rows: sample.size, findings }
}

/** Of the checkpoints of the last day, younger ones more often. What retention may empty is left out. */
async function chooseRange({ postgres, lineage, session, random }: SampleOptions): Promise<SampledRange | undefined> {
  const { rows } = await postgres.query<{ after: string; before: string; since: Date }>(
    `with own as (
       select snapshot, lead(snapshot) over (order by lsn) as next, taken_at from outrider.checkpoint
       where lineage = $1 and taken_at > now() - interval '1 day'
         and taken_at >= (select started_at from outrider.session where session = $2)
         and taken_at > coalesce((select until from outrider.emptied where lineage = $1), '-infinity')
     ), numbered as (
       select *, row_number() over (order by taken_at desc) as place, count(*) over () as n from own where next is not null
     )
     select snapshot::text as after, next::text as before, taken_at as since from numbered where place = 1 + floor($3::float8 * $3::float8 * n)`,
    [lineage.lineage, session, random()],
  )
  const [pair] = rows
  if (!pair) return undefined
  const [first, end] = [new Snapshot(pair.after).xmax, new Snapshot(pair.before).xmax]
  return { ...pair, from: String(first + BigInt(Math.floor(random() * Number(end - first)))) }
}

class Sample {
  readonly #options: SampleOptions
  readonly #rows: OutboxRows
  readonly #sampled = new Map<string, Sampled>()

  constructor(options: SampleOptions, rows: OutboxRows) {
    this.#options = options
    this.#rows = rows
  }

  get size(): number {
    return this.#sampled.size
  }

  async read(range: SampledRange): Promise<void> {
    await this.#read(range)
    // The transactions from there on may be others.
    const from = String(new Snapshot(range.after).xmax)
    if (this.size === 0 && from !== range.from) await this.#read({ ...range, from })
  }

  async #read(range: SampledRange): Promise<void> {
    await this.#rows.sample(range, MAX_ROWS, ({ stream, id, xid, time }) => {
      this.#sampled.set(nameOf(stream, id), { stream, id, xid, time, digest: this.#digest(), seen: 'not' })
    })
  }

  async compare(range: SampledRange): Promise<SampleFinding[]> {
    const { redis, signal } = this.#options
    const streams = await readStreams(redis, new Set([...this.#sampled.values()].map(({ stream }) => stream)))
    const from = await this.#entriesFrom(range)
    const findings: SampleFinding[] = []
    let left = MAX_ENTRIES
    for (const [key, facts] of streams) {
      if (facts?.first === undefined) continue
      const between = new Between()
      const count = this.#of(key).length
      let missing = count
      for await (const page of readPages(redis, key, String(from), facts.last)) {
        signal.throwIfAborted()
        left -= page.length
        for (const each of page) {
          const entry = auditedEntryOf(each, this.#options.lineage.source)
          if (entry && this.#meet(key, entry, between)) missing -= 1
        }
        if (missing === 0 || left <= 0) break
      }
      // Read at the wrong place, or too much: nothing is known of these.
      if (missing === count && left <= 0) this.#leaveOut(key)
      findings.push(...(await this.#findExtra(key, between)))
    }
    return [...(await this.#conclude(streams)), ...findings]
  }

  /** From when on the entries of the rows are read, by the clock of Redis, in milliseconds. */
  async #entriesFrom({ since }: SampledRange): Promise<number> {
    const { postgres, redis } = this.#options
    const [seconds, micros] = (await redis.time()) as [number | string, number | string]
    const { rows } = await postgres.query<{ now: Date }>('select clock_timestamp() as now')
    const ahead = Number(seconds) * 1_000 + Number(micros) / 1_000 - rows[0]!.now.getTime()
    const times = [...this.#sampled.values()].map(({ time }) => time ?? 0)
    // The application may have given them any time. The first checkpoint's snapshot was taken up to a minute before it was saved.
    const from = times.reduce((one, other) => Math.min(one, other), Infinity)
    return Math.max(0, Math.floor(Math.max(from, since.getTime() - 2 * 60_000) + ahead - MARGIN_MS))
  }

  /** Whether it is the first entry of a row of the sample. */
  #meet(key: string, { id, fields }: AuditedEntry, between?: Between): boolean {
    const sampled = this.#sampled.get(nameOf(key, id))
    if (!sampled) {
      between?.add(id, fields.sequence)
      return false
    }
    const isFirst = sampled.seen === 'not'
    if (isFirst) between?.met(id, fields.sequence)
    if (sampled.seen !== 'same') {
      sampled.seen = sameDigest(sampled.digest, digestOf(fields, true)) ? 'same' : 'altered'
    }
    return isFirst
  }

  /** Entries between those of two rows, without a row. */
  async #findExtra(key: string, between: Between): Promise<SampleFinding[]> {
    const { postgres, redis, lineage } = this.#options
    const [bounds, ids] = [between.bounds, between.ids()]
    if (ids.length === 0) return []
    const known = await existing(postgres, ids)
    const extra = ids.filter((id) => !known.has(id))
    if (extra.length === 0) return []
    // Rows may be deleted from the oldest on; and another database may publish here with the same source.
    const kept = await existing(postgres, bounds)
    const others = Object.keys(await redis.hgetall(policyKey(key))).filter((other) => other !== lineage.lineage)
    if (kept.size < bounds.length || others.length > 0) return []
    return extra.map((id) => ({ kind: 'extra', stream: key, id }))
  }

  /** What became of the rows without an entry, and of those that differ from theirs. */
  async #conclude(streams: KnownStreams): Promise<SampleFinding[]> {
    const { postgres, redis, lineage } = this.#options
    const suspects = () => [...this.#sampled.values()].filter(({ seen }) => seen !== 'same')
    const keys = new Set(suspects().map(({ stream }) => stream))
    for (const key of keys) if (streams.get(key)) await this.#readAll(key)
    if (suspects().length === 0) return []
    const after = await readStreams(redis, keys)
    const trimmed = new TrimmedRows(postgres, redis, lineage)
    await trimmed.learn(after)
    const rejected = await this.#rejected()
    const findings: SampleFinding[] = []
    for (const { stream, id, xid, seen } of await this.#again(suspects())) {
      if (seen === 'altered') findings.push({ kind: seen, stream, id })
      else if (!rejected.has(id) && trimmed.lackOf(stream, xid) === 'missing') {
        findings.push({ kind: 'missing', stream, id })
      }
    }
    return findings
  }

  /** A row may have its entry at another time than most: it was put back, or its commit waited for a standby. */
  async #readAll(key: string): Promise<void> {
    const { redis, lineage, signal } = this.#options
    const facts = await readFacts(redis, key)
    if (!facts) return
    for await (const page of readPages(redis, key, '-', facts.last)) {
      signal.throwIfAborted()
      for (const each of page) {
        const entry = auditedEntryOf(each, lineage.source)
        if (entry) this.#meet(key, entry)
      }
      if (this.#of(key).every(({ seen }) => seen === 'same')) return
    }
  }

  async #rejected(): Promise<Set<string>> {
    const ids = new Set<string>()
    for await (const page of readRejected(this.#options.postgres, this.#options.lineage.lineage)) {
      for (const { id } of page) if (this.#ids.has(id)) ids.add(id)
    }
    return ids
  }

  get #ids(): Set<string> {
    return new Set([...this.#sampled.values()].map(({ id }) => id))
  }

  /** Those that are still rows, and say the same. */
  async #again(suspects: readonly Sampled[]): Promise<Sampled[]> {
    const found = new Map<string, Digest>()
    await this.#rows.named(
      suspects.map(({ id }) => id),
      ({ stream, id }) => found.set(nameOf(stream, id), this.#digest()),
    )
    return suspects.filter(({ stream, id, digest }) => {
      const now = found.get(nameOf(stream, id))
      return now !== undefined && sameDigest(now, digest)
    })
  }

  #leaveOut(key: string): void {
    for (const { id } of this.#of(key)) this.#sampled.delete(nameOf(key, id))
  }

  #of(key: string): Sampled[] {
    return [...this.#sampled.values()].filter(({ stream }) => stream === key)
  }

  /** Of the row that was read last. */
  #digest(): Digest {
    return digestOf(this.#rows.fields() ?? {}, this.#rows.hasTime)
  }
}

/** Entries of other rows, between the first and the last position of the sample in a stream. */
class Between {
  readonly #others: [id: string, position: Position][] = []
  #first: [id: string, position: Position] | undefined
  #last: [id: string, position: Position] | undefined

  add(id: string, position: string | undefined): void {
    if (this.#others.length < MAX_OTHERS && isOfWal(position) && UUID.test(id)) this.#others.push([id, position])
  }

  met(id: string, position: string | undefined): void {
    if (!isOfWal(position)) return
    if (!this.#first || position < this.#first[1]) this.#first = [id, position]
    if (!this.#last || position > this.#last[1]) this.#last = [id, position]
  }

  /** The ids of the two rows. */
  get bounds(): string[] {
    return this.#first && this.#last ? [...new Set([this.#first[0], this.#last[0]])] : []
  }

  ids(): string[] {
    const [first, last] = [this.#first?.[1], this.#last?.[1]]
    if (first === undefined || last === undefined) return []
    return this.#others.filter(([, position]) => position > first && position < last).map(([id]) => id)
  }
}

/** What a repair or a request has appended stands elsewhere than its row. */
const isOfWal = (position: string | undefined): position is Position =>
  position !== undefined && POSITION.test(position) && !isPlace(position)

/** Which of these ids the table has, in any bucket. */
async function existing(client: pg.Client, ids: readonly string[]): Promise<Set<string>> {
  const { rows } = await client.query<{ id: string }>(
    `select o.id::text as id from generate_series(0, ${BUCKETS.length - 1}) as bucket
       join outrider.outbox as o using (bucket) where o.id = any ($1::uuid[])`,
    [ids],
  )
  return new Set(rows.map(({ id }) => id))
}

const nameOf = (stream: string, id: string): string => `${stream}\0${id}`
