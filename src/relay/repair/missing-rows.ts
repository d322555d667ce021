import pg from 'pg'
import { batchesOf } from '../../base/in-batches.js'
import { UUID } from '../../event/names.js'
import { expressionsOf, ROW_SIZE, type RowCount, RowReferences } from '../../postgres/outbox/row-references.js'
import { fromTxid } from '../../postgres/outbox/txid-index.js'
import { NOT_REJECTED, withRejected } from './rejected-rows.js'

export interface MissingRowsOptions {
  /** A connection of its own: the result stands in a cursor. */
  client: pg.Client
  lineage: string
  /** Of the repair: ids that another one has found do not count. */
  session: string
  /** Rows that it sees are put back. */
  snapshot: string
}

/**
 * Rows of Outrider's own table that the streams of the open gaps lack: the snapshot of the repair sees them, the bound of their
 * stream does not, no stream has their id, and no incident says that they cannot be published. Nor were they trimmed after every group
 * had finished them: the horizon of their stream does not see them, or they had left it unfinished.
 *
 * In the order of their commits, where the server tracks commit timestamps; else in the order of inserting. The cursor holds
 * references alone, and is worked out once: what is put back meanwhile does not move it.
 */
export class MissingRows {
  readonly #options: MissingRowsOptions
  readonly #references: RowReferences

  constructor(options: MissingRowsOptions) {
    this.#options = options
    this.#references = new RowReferences(options.client, 'missing')
  }

  /** Works out what is missing. More than `limit` rows are counted, and can not be read. */
  async find(limit: number): Promise<RowCount> {
    await this.#references.prepare()
    const missing = await this.#select()
    const found = await this.#references.declare(`${missing} limit ${limit + 1}`, 'committed nulls first, seq')
    if (found.rows <= limit) return found
    await this.#references.close()
    // A person has to know how many there are. These are neither sorted nor kept.
    const counted = await this.#options.client.query<{ rows: string; bytes: string }>(
      `select count(*) as rows, coalesce(sum(size), 0) as bytes from (${missing}) as missing`,
    )
    return { rows: Number(counted.rows[0]?.rows), bytes: Number(counted.rows[0]?.bytes) }
  }

  /** The rows: the text of each of `columns`, in order; an empty name is a column that is null. */
  read(columns: readonly string[]): AsyncGenerator<(string | null)[][]> {
    return this.#references.read(expressionsOf(columns))
  }

  /** The bounds decide from which transaction on the table is read. */
  async #select(): Promise<string> {
    const { client } = this.#options
    const lineage = pg.escapeLiteral(this.#options.lineage)
    const session = pg.escapeLiteral(this.#options.session)
    const snapshot = `${pg.escapeLiteral(this.#options.snapshot)}::pg_snapshot`
    const { rows } = await client.query<{ tracked: boolean; first: string | null }>(
      `select current_setting('track_commit_timestamp') = 'on' as tracked,
         case when bool_and(bound is not null) then min(pg_snapshot_xmin(bound)::text::bigint)::text end as first
       from (select coalesce(snapshot, first_snapshot) as bound from ${gapsOf(lineage)}) as gap`,
    )
    const [known] = rows
    const committed = known?.tracked ? 'pg_xact_commit_timestamp(o.txid::xid)' : 'null::timestamptz'
    return `
      with gap as (
        select split_part(stream_key, ':', 1) as stream, of_gap.snapshot, h.snapshot as horizon
          from ${gapsOf(lineage)} left join outrider.horizon as h using (lineage, stream_key)
      ), affected as materialized (
        select stream, ${earliest('snapshot')} as bound, ${earliest('horizon')} as horizon from gap group by stream
      ), ${withRejected(this.#options.lineage)}
      select o.bucket, o.id, ${ROW_SIZE} as size,
             ${committed} as committed, o.seq
        from outrider.outbox as o join affected as a on a.stream = o.stream
       where ${await fromTxid(client, known?.first ?? undefined)} and pg_visible_in_snapshot(o.txid, ${snapshot})
         and pg_visible_in_snapshot(o.txid,
           coalesce(a.bound, (select first_snapshot from outrider.lineage where lineage = ${lineage}))) is not true
         and not exists (select from outrider.present as p where p.lineage = ${lineage} and p.session = ${session} and p.stream = o.stream
             and p.id = o.id)
         and ${NOT_REJECTED}
         and (pg_visible_in_snapshot(o.txid, a.horizon) is not true or exists (
           select from outrider.moved_event as m where m.lineage = ${lineage} and m.event_id = o.id::text
             and split_part(m.stream_key, ':', 1) = o.stream))`
  }
}

/** For a `from`: the streams of the open gaps, with what is known of each. */
const gapsOf = (lineage: string): string =>
  `(select lineage, stream_key, g.snapshot, first_snapshot
    from outrider.gap_stream as g join outrider.incident as i on i.id = incident join outrider.lineage using (lineage)
    where lineage = ${lineage} and i.closed_at is null and i.repaired_at is null) as of_gap`

/** SQL: of all partitions of a stream, what each has; null where that of one is not known. */
const earliest = (snapshot: string): string =>
  `case when bool_and(${snapshot} is not null) then (array_agg(${snapshot} order by pg_snapshot_xmax(${snapshot}),
     pg_snapshot_xmin(${snapshot}), (select count(*) from pg_snapshot_xip(${snapshot})) desc))[1] end`

const IDS_AT_ONCE = 5_000

/**
 * Records ids that streams have, in `outrider.present`, for the repair of a session. By stream: only within a bucket of the table
 * is an id unique.
 */
export class PresentIds {
  readonly #client: pg.Client
  readonly #lineage: string
  readonly #session: string
  #found: [stream: string, id: string][] = []

  constructor(client: pg.Client, lineage: string, session: string) {
    this.#client = client
    this.#lineage = lineage
    this.#session = session
  }

  /** Of earlier repairs, too; nothing where a later one has begun. */
  async clear(): Promise<void> {
    await this.#client.query(
      'delete from outrider.present where lineage = $1 and exists (select from outrider.repair where session = $2)',
      [this.#lineage, this.#session],
    )
  }

  /** What is no UUID is no id of Outrider's own table. */
  async add(stream: string, ids: readonly string[]): Promise<void> {
    for (const id of ids) if (UUID.test(id)) this.#found.push([stream, id])
    if (this.#found.length >= IDS_AT_ONCE) await this.flush()
  }

  async flush(): Promise<void> {
    const found = this.#found
    this.#found = []
    for (const batch of batchesOf(found, IDS_AT_ONCE)) {
      await this.#client.query(
        `insert into outrider.present (lineage, session, stream, id)
         select $1, $2, * from unnest($3::text[], $4::uuid[]) on conflict do nothing`,
        [this.#lineage, this.#session, batch.map(([stream]) => stream), batch.map(([, id]) => id)],
      )
    }
  }
}
