import type pg from 'pg'
import { OutriderError } from '../base/failure.js'
import { leadsNowhere } from '../config/load.js'
import type { Config } from '../config/schema.js'
import { acceptance, type InboxKey } from '../consumer/inbox/inbox.js'
import { connectPostgres } from '../postgres/client/connect.js'
import { type DeadLetterEntry, letterField } from '../redis/streams/dead-letters.js'
import { printable } from './output.js'

/** The inbox of the groups whose dead letters are discarded, or why there is none. */
type Inbox = { client: pg.Client } | { lacks: string }

/**
 * Records discarded events as finished by their group: a repair after a loss of Redis puts them back with the others, and the group's
 * inbox then skips them. Without an inbox the letters are discarded all the same, and `lacks` says why nothing is recorded.
 */
export class DiscardRecord {
  readonly #config: Config['postgres']
  readonly #keeps = new Map<string, boolean>()
  #inbox: Inbox | undefined
  recorded = 0

  constructor(config: Config['postgres']) {
    this.#config = config
  }

  /** Undefined: everything is recorded, or nothing was to be. */
  get lacks(): string | undefined {
    if (this.#inbox === undefined) return undefined
    if ('lacks' in this.#inbox) return this.#inbox.lacks
    const others = [...this.#keeps].filter(([, keeps]) => !keeps).map(([group]) => printable(group))
    return others.length === 0 ? undefined : `no inbox of ${others.join(', ')} is in this database`
  }

  /** To be called before they are removed. */
  async add(letters: readonly DeadLetterEntry[]): Promise<void> {
    this.#inbox ??= await connectInbox(this.#config)
    const group = letters[0]?.from.group
    if ('lacks' in this.#inbox || group === undefined || !(await this.#keepsInbox(this.#inbox.client, group))) return
    const keys = letters.map(keyOf).filter((key) => key !== undefined)
    if (keys.length === 0) return
    const { first } = acceptance(group, keys, undefined)
    try {
      await this.#inbox.client.query(first.text, first.values)
    } catch (error) {
      throw new OutriderError(
        `The workers' database refused to record dead letters of ${printable(group)}: ${printable((error as Error).message)}. ` +
          'These and what follows are still there. Run the command again, or without the URL of Postgres.',
        { cause: error },
      )
    }
    this.recorded += keys.length
  }

  async close(): Promise<void> {
    if (this.#inbox && 'client' in this.#inbox) await this.#inbox.client.end().catch(() => undefined)
  }

  /** The workers' database need not be the one with the outbox, which has an inbox, too. */
  async #keepsInbox(client: pg.Client, group: string): Promise<boolean> {
    const known = this.#keeps.get(group)
    if (known !== undefined) return known
    const { rows } = await client.query<{ keeps: boolean }>(
      `select exists (select from outrider.subscription where consumer_group = $1)
         or exists (select from outrider.inbox where consumer_group = $1) as keeps`,
      [group],
    )
    const keeps = rows[0]!.keeps
    this.#keeps.set(group, keeps)
    return keeps
  }
}

async function connectInbox(config: Config['postgres']): Promise<Inbox> {
  if (leadsNowhere('postgres', config.url)) return { lacks: "no URL of the workers' database is given" }
  let client: pg.Client | undefined
  try {
    client = await connectPostgres(config, 'outrider-dead-letters')
    const { rows } = await client.query<{ may: boolean | null }>(
      `select has_table_privilege(to_regclass('outrider.inbox'), 'insert')
         and has_table_privilege(to_regclass('outrider.subscription'), 'select')
         and has_schema_privilege('outrider', 'usage') as may
       from pg_namespace where nspname = 'outrider'`,
    )
    if (rows[0]?.may) return { client }
    await client.end()
    return {
      lacks: rows[0]?.may === false ? 'this role lacks the rights of outrider_consumer' : 'this database has no inbox',
    }
  } catch (error) {
    await client?.end().catch(() => undefined)
    return { lacks: `the workers' database cannot be used (${printable((error as Error).message)})` }
  }
}

/** A malformed event may lack either, and no inbox has a row of it. */
function keyOf(letter: DeadLetterEntry): InboxKey | undefined {
  const [id, source] = [letterField(letter, 'id'), letterField(letter, 'source')]
  return id === undefined || source === undefined ? undefined : { id, source }
}
