import pg from 'pg'
import { rowCondition } from '../../postgres/outbox/row-filter.js'
import { expressionsOf, ROW_SIZE, type RowCount, RowReferences } from '../../postgres/outbox/row-references.js'
import type { Executor, RunningRequest } from '../../postgres/state/requests.js'
import { NOT_REJECTED, withRejected } from '../repair/rejected-rows.js'

/** So many ids are looked up one by one; for more of them the table is read. */
const MAX_LOOKED_UP = 10_000

export interface RequestedRow {
  /** As text, in the order of the columns that were asked for. */
  columns: (string | null)[]
  seq: bigint
}

/**
 * The rows of a request that are not known to be in their streams yet, in the order of inserting: `seq` never changes, so that a later
 * session can continue by it. Rows that an incident says cannot be published are left out, unless a person has named them.
 */
export class RequestedRows {
  readonly #client: pg.Client
  readonly #executor: Executor
  readonly #request: RunningRequest
  readonly #references: RowReferences

  /** `client`: a connection of its own. */
  constructor(client: pg.Client, executor: Executor, request: RunningRequest) {
    this.#client = client
    this.#executor = executor
    this.#request = request
    this.#references = new RowReferences(client, 'requested')
  }

  async find(): Promise<RowCount> {
    await this.#references.prepare()
    return this.#references.declare(await this.#select(), 'seq')
  }

  /** Those that are in their streams, as `outrider.present` says: how many, and the highest `seq` of all that may be. */
  async findPresent(): Promise<{ rows: number; highest: bigint }> {
    const { ids } = this.#request.arguments
    const { rows } = await this.#client.query<{ rows: string; highest: string }>(
      `with ${withRejected(this.#executor.lineage)}
       select count(*) filter (where ${ids === undefined ? NOT_REJECTED : 'true'}) as rows, coalesce(max(o.seq), 0) as highest
         from outrider.outbox as o where ${await this.#condition(true)}`,
    )
    return { rows: Number(rows[0]?.rows), highest: BigInt(rows[0]?.highest ?? 0) }
  }

  /** In pages. Rows that were deleted since they were found are left out. */
  async *read(columns: readonly string[]): AsyncGenerator<RequestedRow[]> {
    const { to } = this.#request.arguments
    const expressions = expressionsOf(columns)
    if (to !== undefined) expressions[columns.indexOf('stream')] = pg.escapeLiteral(to)
    for await (const page of this.#references.read([...expressions, 'seq'])) {
      yield page.map((row) => ({ columns: row.slice(0, -1), seq: BigInt(row.at(-1) ?? 0) }))
    }
  }

  async #select(): Promise<string> {
    const published = this.#request.arguments.ids === undefined ? `and ${NOT_REJECTED}` : ''
    return `
      with ${withRejected(this.#executor.lineage)}
      select o.bucket, o.id, ${ROW_SIZE} as size, o.seq
        from outrider.outbox as o where ${await this.#condition(false)} ${published}`
  }

  /** For a `where`: the row `o` is one of the request, and is, or is not, known to be in its stream. */
  async #condition(isPresent: boolean): Promise<string> {
    const { id, arguments: what, snapshot, through } = this.#request
    const { lineage, session } = this.#executor
    const target = what.to === undefined ? 'o.stream' : pg.escapeLiteral(what.to)
    return `${await rowCondition(this.#client, lineage, what)} and o.seq > ${BigInt(through)}
         and pg_visible_in_snapshot(o.txid, ${pg.escapeLiteral(snapshot)}::pg_snapshot)
         and ${isPresent ? '' : 'not'} exists (select from outrider.present as p where p.lineage = ${pg.escapeLiteral(lineage)}
           and p.session = ${pg.escapeLiteral(session)} and p.stream = ${target} and p.id = o.id)
         ${what.ids === undefined ? '' : `and ${named(id, what.ids)}`}`
  }
}

const named = (request: string, count: number): string => {
  const events = `from outrider.request_event as e where request = ${BigInt(request)}`
  const lookUp = count > MAX_LOOKED_UP ? '' : `o.id = any (array(select e.id ${events})) and `
  return `${lookUp}exists (select ${events} and e.id = o.id and e.stream in ('', o.stream))`
}
