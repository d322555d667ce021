import { isRequested, POSITION } from '../event/position.js'
import { Snapshot } from '../postgres/state/snapshot.js'
import { awaitConfirmed, type Bounds, readNewest, readRejected } from './bounds.js'
import { Comparison, type Share } from './comparison.js'
import { differingFields, digestOf, hashEvent } from './digest.js'
import { type AuditedEntry, addedAt } from './entries.js'
import type { AuditOptions, AuditProgress, MissingEvent } from './options.js'
import type { AuditedRow, OutboxRows } from './rows.js'
import { type KnownStreams, readEntries, readStreams, type StreamSelection, slicesOf, TrimmedRows } from './streams.js'
import { onOneSnapshot, TableScan } from './table-scan.js'
import type { Tally } from './tally.js'
import { Flag } from './unmatched.js'

export interface AuditContext {
  options: AuditOptions
  bounds: Bounds
  rows: OutboxRows
  partitions: Record<string, number>
  selection: StreamSelection
  tally: Tally
  rowsInAll: number
}

const MAX_UNMATCHED = 4_000_000
/** Copies of one altered event that are held against its row. */
const MAX_COPIES = 5
/** So many of them, at most. */
const MAX_UNPUBLISHED = 100_000

/** One reading of table and streams, for one share of the events. */
export class Pass {
  readonly #context: AuditContext
  readonly #comparison: Comparison
  readonly #since: Snapshot | undefined
  readonly #first: boolean
  /** Streams that rows name and no saved head does: new ones, or those of rows that were never published. */
  readonly #unpublished = new Set<string>()
  #keys = new Set<string>()
  /** By the time of the oldest row, in milliseconds. */
  #oldest = Infinity
  #newest: Snapshot | undefined
  #settled = false
  readonly #copies = new Map<string, AuditedEntry[]>()
  readonly #progress: AuditProgress
  /** Found on the page that is read. */
  #missing: MissingEvent[] = []

  constructor(context: AuditContext, share: Share, split: (share: Share) => void) {
    this.#context = context
    this.#comparison = new Comparison(share, context.options.maxUnmatched ?? MAX_UNMATCHED, split)
    this.#since = context.bounds.since?.snapshot === undefined ? undefined : new Snapshot(context.bounds.since.snapshot)
    this.#newest = context.bounds.newest
    this.#first = context.tally.passes === 0
    this.#progress = { step: 'compare', rows: 0, rowsInAll: context.rowsInAll, entries: 0 }
  }

  async run(): Promise<void> {
    const { options, partitions, selection, tally } = this.#context
    tally.passes += 1
    this.#keys = await selection.keys(options.postgres, options.lineage.lineage, partitions)
    const streams = await readStreams(options.redis, this.#keys)
    tally.knows(streams)
    await this.#compare(streams)
    await this.#lookUp()
    tally.count(this.#comparison)
  }

  async #compare(streams: KnownStreams): Promise<void> {
    const { options, bounds, rows, selection } = this.#context
    const { since } = bounds
    // After the streams' ends are known: the row of every entry up to there is in the table.
    await onOneSnapshot(options.postgres, !rows.own, async () => {
      const filter = { notIn: since?.snapshot, stream: selection.name }
      const scan = new TableScan(rows, await rows.parts(), filter, (row) => this.#row(row))
      for (const slice of slicesOf(streams, since?.entriesFrom ?? 0)) {
        await this.#readEntries(streams, slice, (key, entry) => this.#entry(key, entry))
        await scan.readUntil(slice.to, () => this.#tell('compare'))
      }
    })
    if (this.#unpublished.size === 0) return
    const more = await readStreams(options.redis, this.#unpublished)
    const slice = { from: since?.entriesFrom ?? 0, to: Infinity }
    await this.#readEntries(more, slice, (key, entry) => this.#entry(key, entry))
    for (const key of more.keys()) this.#keys.add(key)
    this.#context.tally.knows(new Map([...streams, ...more]))
  }

  #row(row: AuditedRow): void {
    if (!this.#context.selection.includes(row.stream)) return
    this.#count('rows')
    if (!this.#keys.has(row.stream) && this.#unpublished.size < MAX_UNPUBLISHED) this.#unpublished.add(row.stream)
    const event = hashEvent(row.stream, row.id)
    if (this.#comparison.accepts(event)) this.#comparison.row(event, this.#digest(), this.#classify(row))
  }

  #entry(key: string, { entry, id, fields }: AuditedEntry): void {
    this.#count('entries')
    const event = hashEvent(key, id)
    if (!this.#comparison.accepts(event)) return
    const { since } = this.#context.bounds
    this.#comparison.entry(event, digestOf(fields, true), since && addedAt(entry) < since.time ? Flag.old : 0)
  }

  /** What the transaction of a row says of it. */
  #classify({ xid, alien, time }: AuditedRow): number {
    const { bounds, rows } = this.#context
    if (alien) return Flag.alien
    if (!bounds.start.sees(xid)) return 0
    // An update gives a row of a mapped table a younger transaction: its time tells, too.
    const olderThan = (limit: number | undefined) =>
      !rows.own && time !== undefined && limit !== undefined && time < limit
    if (!bounds.first || bounds.first.sees(xid) || olderThan(bounds.firstAt)) return Flag.before
    if (this.#since?.sees(xid) || olderThan(bounds.since?.time)) return Flag.old
    if (!rows.own && time === undefined) return Flag.undated
    return this.#newest?.sees(xid) ? Flag.due : Flag.due | Flag.recent
  }

  /** Of the row that was read last. */
  #digest() {
    const { rows } = this.#context
    return digestOf(rows.fields() ?? {}, rows.hasTime)
  }

  async #lookUp(): Promise<void> {
    const { options, tally } = this.#context
    const comparison = this.#comparison
    if (!comparison.some(isOpen)) return
    if (comparison.some((flags) => isLacking(flags) && (flags & Flag.recent) !== 0)) await this.#awaitConfirmed()
    if (comparison.some((flags) => (flags & Flag.entry) !== 0 && isOpen(flags))) {
      await this.#scan((row) => this.#rowAgain(row))
      if (!comparison.some(isOpen)) return
    }
    this.#progress.step = 'look up'
    const streams = await readStreams(options.redis, this.#keys)
    const from = this.#context.bounds.since?.entriesFrom ?? 0
    await this.#readEntries(streams, { from, to: Infinity }, (key, entry) => this.#entryAgain(key, entry))
    if (!comparison.some((flags) => isLacking(flags) || isAltered(flags))) return
    await this.#explainRejected()
    // After their entries: what was trimmed meanwhile is not missing.
    const after = await readStreams(options.redis, this.#keys)
    tally.knows(after)
    const trimmed = new TrimmedRows(options.postgres, options.redis, options.lineage)
    await trimmed.learn(after)
    await this.#scan((row) => this.#conclude(row, trimmed))
  }

  async #awaitConfirmed(): Promise<void> {
    const { options, bounds, tally } = this.#context
    this.#tell('wait')
    this.#settled = await awaitConfirmed(options.postgres, options.lineage.lineage, bounds.startLsn, options.wait)
    if (this.#settled) return
    tally.confirmed = false
    this.#newest = await readNewest(options.postgres, options.lineage.lineage)
  }

  /** Is there a row for what was seen in the stream alone, or another one for what seemed altered? */
  #rowAgain(row: AuditedRow): void {
    if (row.time !== undefined && row.time < this.#oldest) this.#oldest = row.time
    this.#comparison.rowAgain(hashEvent(row.stream, row.id), () => this.#digest())
  }

  /** Is there an entry for what was seen in the table alone? What has no row is extra. */
  #entryAgain(key: string, entry: AuditedEntry): void {
    const { tally } = this.#context
    const event = hashEvent(key, entry.id)
    const flags = this.#comparison.entryAgain(event, () => digestOf(entry.fields, true))
    if (isAltered(flags)) this.#keepCopy(key, entry)
    if (flags & (Flag.row | Flag.old | Flag.extra) || !(flags & Flag.entry)) return
    const { sequence } = entry.fields
    if (sequence !== undefined && POSITION.test(sequence) && isRequested(sequence)) {
      this.#comparison.mark(event, Flag.republished)
      return
    }
    const added = addedAt(entry.entry)
    if (added < this.#oldest || added < this.#context.bounds.emptiedUntil) return
    this.#comparison.mark(event, Flag.extra)
    tally.list({ kind: 'extra', stream: key, id: entry.id, entry: entry.entry })
  }

  #keepCopy(key: string, entry: AuditedEntry): void {
    const event = `${key}\0${entry.id}`
    const copies = this.#copies.get(event)
    if (copies === undefined && this.#copies.size < this.#context.options.limit) this.#copies.set(event, [entry])
    else if (copies !== undefined && copies.length < MAX_COPIES) copies.push(entry)
  }

  async #explainRejected(): Promise<void> {
    const { postgres, lineage } = this.#context.options
    for await (const page of readRejected(postgres, lineage.lineage)) {
      for (const { stream, id } of page) this.#comparison.mark(hashEvent(stream, id), Flag.rejected)
    }
  }

  #conclude(row: AuditedRow, trimmed: TrimmedRows): void {
    const { tally } = this.#context
    const event = hashEvent(row.stream, row.id)
    const flags = this.#comparison.flagsOf(event)
    if (isAltered(flags)) this.#explainAltered(row)
    if (!isLacking(flags) || flags & (Flag.rejected | Flag.missing | Flag.trimmed)) return
    if (flags & Flag.recent && !this.#settled && !this.#newest?.sees(row.xid)) return
    const lack = trimmed.lackOf(row.stream, row.xid)
    this.#comparison.mark(event, lack === 'missing' ? Flag.missing : Flag.trimmed)
    tally.lacks(row.stream, lack)
    if (lack !== 'missing') return
    tally.list({ kind: lack, ...nameOf(row) })
    if (this.#context.options.missing) this.#missing.push([row.id, row.stream])
  }

  #explainAltered(row: AuditedRow): void {
    const { rows, tally } = this.#context
    const expected = rows.fields()
    const event = `${row.stream}\0${row.id}`
    for (const { entry, fields } of this.#copies.get(event) ?? []) {
      const differing = differingFields(expected ?? {}, fields, rows.hasTime)
      if (differing.length === 0) continue
      tally.list({ kind: 'altered', ...nameOf(row), entry, fields: differing })
      this.#copies.delete(event)
      return
    }
  }

  /** Reads the whole table once more. */
  async #scan(take: (row: AuditedRow) => void): Promise<void> {
    const { options, rows, selection } = this.#context
    await onOneSnapshot(options.postgres, !rows.own, async () => {
      const scan = new TableScan(rows, await rows.parts(), { stream: selection.name }, take)
      await scan.readUntil(Infinity, () => {
        this.#tell('look up')
        return this.#tellMissing()
      })
    })
  }

  async #tellMissing(): Promise<void> {
    if (this.#missing.length === 0) return
    const missing = this.#missing
    this.#missing = []
    await this.#context.options.missing?.(missing)
  }

  async #readEntries(
    streams: KnownStreams,
    slice: { from: number; to: number },
    entry: (key: string, entry: AuditedEntry) => void,
  ): Promise<void> {
    const { options, tally } = this.#context
    await readEntries(options.redis, streams, {
      ...{ source: options.lineage.source, slice, entry },
      other: () => {
        if (this.#first && this.#progress.step === 'compare') tally.otherSources += 1
      },
      read: (count) => {
        this.#progress.entries += count
        this.#tell(this.#progress.step)
      },
    })
  }

  #count(what: 'rows' | 'entries'): void {
    if (what === 'rows') this.#progress.rows += 1
    if (this.#first) this.#context.tally[what] += 1
  }

  #tell(step: AuditProgress['step']): void {
    this.#progress.step = step
    this.#context.options.progress?.(this.#progress)
  }
}

const nameOf = ({ stream, id, time }: AuditedRow) => ({
  stream,
  id,
  ...(time === undefined ? {} : { time: new Date(time) }),
})

/** A row that must have its entry, and has none. */
const isLacking = (flags: number): boolean => (flags & (Flag.due | Flag.entry)) === Flag.due

const isAltered = (flags: number): boolean => (flags & (Flag.altered | Flag.conflict)) !== 0

/** To be looked up: a due row without entry, an entry without row, or both and different. */
const isOpen = (flags: number): boolean =>
  isLacking(flags) || isAltered(flags) || (flags & (Flag.entry | Flag.row | Flag.old)) === Flag.entry
