import { sqlState } from '../postgres/client/transaction.js'
import { readMigrations } from '../postgres/setup/migration.js'
import { describeRenamedSchema, findRenamedSchema } from '../postgres/setup/renamed-schema.js'
import { classifyHistory, describeForeign, readHistory } from '../postgres/state/history.js'
import { HaltError } from './errors.js'
import type { ReplicationQuery } from './source/leader-lock.js'

/** As this process was started with; its folder may hold another version's meanwhile. */
const KNOWN = await readMigrations()

/** `outrider setup` has not run, or not to its end: the relay waits for it, and no one has to tell it. */
export class SetupMissingError extends Error {
  override name = 'SetupMissingError'
  constructor(
    readonly reason: 'setup_missing' | 'setup_outdated' | 'setup_interrupted' | 'setup_privilege',
    found: string,
    command = 'outrider setup',
  ) {
    super(
      `Expected a database that \`outrider setup\` of this version has been through, found ${found}. ` +
        `Run \`${command}\`, or let it end: the relay waits, and continues by itself.`,
    )
  }
}

export const lineageMissing = (slot: string): SetupMissingError =>
  new SetupMissingError('setup_missing', `no lineage for slot ${slot}`)

/** What finds the schema where it has another name. */
interface SlotNames {
  slot: string
  publication: string
}

/** Can this version publish from this database? Looks at nothing that an older or a newer schema might lack. */
export async function verifySchema(query: ReplicationQuery, names: SlotNames): Promise<void> {
  const { slot } = names
  const missing = await verifyServed(query, names)
  if (missing.length > 0) throw new SetupMissingError('setup_outdated', `that it lacks ${missing.join(', ')}`)
  // A slot's name holds nothing but letters, digits and underscores.
  const [lineage] = await granted(query)(
    `select confirmed_lsn is not null as complete from outrider.lineage where slot = '${slot}' and retired_at is null`,
  )
  if (!lineage) throw lineageMissing(slot)
  if (!lineage.complete) throw new SetupMissingError('setup_interrupted', `that slot ${slot} is not recorded yet`)
}

/** Throws where there is no schema, and where a newer version has gone too far; what this version's setup has still to apply. */
export async function verifyServed(query: ReplicationQuery, names: SlotNames): Promise<string[]> {
  const applied = await readHistory(granted(query))
  if (!applied) {
    const renamed = await findRenamedSchema(query, names)
    if (!renamed) throw new SetupMissingError('setup_missing', 'no schema outrider')
    throw new HaltError(
      'schema_renamed',
      `Expected the schema outrider, ${describeRenamedSchema(renamed)} Nothing is published meanwhile.`,
    )
  }
  const { foreign, missing } = classifyHistory(applied, KNOWN)
  if (foreign) throw new HaltError('schema_foreign', `${describeForeign(foreign)} Nothing is published meanwhile.`)
  return missing
}

/** Setup makes the schema before it grants, so a relay may come in between; nothing else in these questions can be refused. */
const granted =
  (query: ReplicationQuery): ReplicationQuery =>
  async (sql) => {
    try {
      return await query(sql)
    } catch (error) {
      if (sqlState(error) !== '42501') throw error
      const [me] = await query('select current_user as role')
      throw new SetupMissingError(
        'setup_privilege',
        `that role ${me?.role} may not use it (${(error as Error).message})`,
        `outrider setup --grant-relay ${me?.role}`,
      )
    }
  }
