import type { Lsn } from '../../postgres/client/lsn.js'

/** A transaction that has ended: its rows must be in their streams once everything before `lsn` is confirmed. */
export interface Ended {
  xid: string
  lsn: Lsn
}

/** The transactions that a repair awaits. `until`: what commits at it or later is not visible in its snapshot. */
export interface Awaited {
  until: Lsn
  open: ReadonlySet<string>
  ended: readonly Ended[]
}

/** What must be confirmed before there is more to be seen. Pure. */
export function awaitedLsn({ until, ended }: Awaited): Lsn {
  let most = until
  for (const { lsn } of ended) if (lsn > most) most = lsn
  return most
}

/** Transactions whose rows can be looked for now: whatever of them comes from WAL is in its stream. Pure. */
export const dueOf = ({ until, ended }: Awaited, confirmed: Lsn): Ended[] =>
  ended.filter(({ lsn }) => confirmed >= lsn && confirmed >= until)

/** Is nothing awaited any longer, so that the gap can be closed? Pure. */
export const isSettled = ({ until, open, ended }: Awaited, confirmed: Lsn): boolean =>
  open.size === 0 && ended.length === 0 && confirmed >= until
