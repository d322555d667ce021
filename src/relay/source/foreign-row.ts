/** A row of a table that is not the outbox: it is neither published nor skipped before an operator has decided. */
export class ForeignRowError extends Error {
  override name = 'ForeignRowError'
  constructor(readonly relation: { oid: number; schema: string; table: string }) {
    super(`Expected rows of the outbox table, found one of ${relation.schema}.${relation.table} (oid ${relation.oid}).`)
  }
}
