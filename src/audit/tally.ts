import type { Comparison } from './comparison.js'
import type { AuditFinding, AuditReport, StreamReport } from './report.js'
import type { KnownStreams, Lack } from './streams.js'
import { Flag } from './unmatched.js'

/** What all passes found: counts, and the first findings of each kind. */
export class Tally {
  rows = 0
  entries = 0
  otherSources = 0
  passes = 0
  confirmed = true
  readonly #lineage: { lineage: string; source: string }
  readonly #since: number | undefined
  readonly #limit: number
  readonly #findings: AuditFinding[] = []
  readonly #listed = { missing: 0, extra: 0, altered: 0 }
  readonly #counts = { missing: 0, extra: 0, altered: 0 }
  readonly #notKnown = { trimmed: 0, before: 0, unconfirmed: 0, alien: 0, undated: 0, rowGone: 0, republished: 0 }
  #rejected = 0
  #repeated = 0
  #streams: KnownStreams = new Map()
  readonly #perStream = new Map<string, Record<Lack, number>>()

  constructor(
    lineage: { lineage: string; source: string },
    { since, limit }: { since?: number | undefined; limit: number },
  ) {
    this.#lineage = lineage
    this.#since = since
    this.#limit = limit
  }

  /** Whether a finding of this kind would still be listed. */
  lists(kind: AuditFinding['kind']): boolean {
    return this.#listed[kind] < this.#limit
  }

  list(finding: AuditFinding): void {
    if (!this.lists(finding.kind)) return
    this.#listed[finding.kind] += 1
    this.#findings.push(finding)
  }

  /** A row of the stream lacks its entry. */
  lacks(stream: string, lack: Lack): void {
    const found = this.#perStream.get(stream) ?? { missing: 0, removed: 0, trimmed: 0 }
    found[lack] += 1
    this.#perStream.set(stream, found)
  }

  knows(streams: KnownStreams): void {
    this.#streams = streams
  }

  count({ unmatched, copies }: Comparison): void {
    this.#repeated += copies
    for (const flags of unmatched.all()) {
      const kind = kindOf(flags)
      if (kind === undefined) continue
      if (kind === 'rejected') this.#rejected += 1
      else if (kind === 'repeated') this.#repeated += 1
      else if (kind === 'missing' || kind === 'extra' || kind === 'altered') this.#counts[kind] += 1
      else this.#notKnown[kind] += 1
    }
  }

  report(): AuditReport {
    const affected = [...this.#perStream].map(([stream, found]) => this.#affected(stream, found))
    const order = { missing: 0, extra: 1, altered: 2 }
    return {
      lineage: this.#lineage.lineage,
      source: this.#lineage.source,
      rows: this.rows,
      entries: this.entries,
      streams: this.#streams.size,
      passes: this.passes,
      since: this.#since === undefined ? null : new Date(this.#since),
      counts: this.#counts,
      missingAmongTrimmed: affected.reduce((sum, each) => sum + each.missingAtLeast, 0),
      notKnown: this.#notKnown,
      rejected: this.#rejected,
      repeated: this.#repeated,
      otherSources: this.otherSources,
      confirmed: this.confirmed,
      affected: affected.sort((one, other) => (one.stream < other.stream ? -1 : 1)),
      findings: this.#findings.sort((one, other) => order[one.kind] - order[other.kind]),
    }
  }

  #affected(stream: string, found: Record<Lack, number>): StreamReport {
    const facts = this.#streams.get(stream)
    const removed = facts?.removed
    return {
      stream,
      missing: found.missing,
      trimmed: found.trimmed + found.removed,
      missingAtLeast: removed === undefined ? 0 : Math.max(0, found.removed - removed),
      removed: removed ?? null,
      deleted: facts === undefined || facts.deleted === '0-0' ? null : facts.deleted,
    }
  }
}

type Kind =
  | 'missing'
  | 'extra'
  | 'altered'
  | 'rejected'
  | 'repeated'
  | 'trimmed'
  | 'before'
  | 'unconfirmed'
  | 'alien'
  | 'undated'
  | 'rowGone'
  | 'republished'

/** What an event is in the end; undefined: nothing to report. */
function kindOf(flags: number): Kind | undefined {
  const is = (flag: number) => (flags & flag) !== 0
  if (is(Flag.row) && is(Flag.entry))
    return is(Flag.altered | Flag.conflict) ? 'altered' : is(Flag.copy) ? 'repeated' : undefined
  if (is(Flag.entry)) {
    if (is(Flag.old)) return undefined
    return is(Flag.extra) ? 'extra' : is(Flag.republished) ? 'republished' : 'rowGone'
  }
  if (is(Flag.missing)) return 'missing'
  if (is(Flag.rejected)) return 'rejected'
  if (is(Flag.old)) return undefined
  if (is(Flag.trimmed)) return 'trimmed'
  if (is(Flag.before)) return 'before'
  if (is(Flag.alien)) return 'alien'
  return is(Flag.undated) ? 'undated' : 'unconfirmed'
}
