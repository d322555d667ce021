import type { Incident } from './incidents.js'

/** What leads on from an open incident. Each command works as it is written, one after the other. */
export interface Remedy {
  commands: string[]
  /** What they do, as the end of a sentence that names them. */
  effect: string
}

/**
 * From PostgreSQL 18 on, WAL from while a publication was missing is skipped with a warning; before, the walsender fails
 * there, whatever was created since. https://www.postgresql.org/docs/current/logical-replication-publication.html
 */
export const decodesWithoutPublication = (version: number): boolean => version >= 180_000

/** `version`: the server's, as `server_version_num`. Pure. */
export function remedyOf({ id, kind, reason }: Pick<Incident, 'id' | 'kind' | 'reason'>, version: number): Remedy {
  const close = `outrider incidents close ${id}`
  switch (kind) {
    case 'foreign':
      return {
        commands: [ADOPT],
        effect: 'starts a new lineage if this copy is meant to publish; otherwise stop this relay',
      }
    case 'rejected':
    case 'operator':
      return { commands: [close], effect: 'takes it off the list' }
    case 'gap':
      break
  }
  switch (reason) {
    case 'slot_missing':
    case 'slot_lost':
      return NEW_LINEAGE
    case 'publication_missing':
      return decodesWithoutPublication(version)
        ? { commands: ['outrider setup', close], effect: 'creates the publication, and accepts the loss' }
        : NEW_LINEAGE
    case 'outbox_replaced':
      return {
        commands: [close],
        effect: 'accepts what was not decoded; until the names are right it says what to run first',
      }
    case 'outbox_inherited':
      return {
        commands: [close],
        effect: 'accepts what was not decoded; until none inherits it says what to run first',
      }
    case 'outbox_foreign_rows':
      return { commands: [close], effect: 'skips all rows of that table' }
    default:
      return { commands: [close], effect: 'accepts the loss' }
  }
}

const ADOPT = 'outrider adopt'
const NEW_LINEAGE: Remedy = {
  commands: [ADOPT],
  effect: 'starts a new lineage with a new slot and shows the events that it leaves out',
}

/** For messages: `a`, then `b`: what they do. */
export const describeRemedy = ({ commands, effect }: Remedy): string =>
  `${commands.map((command) => `\`${command}\``).join(', then ')}: ${effect}.`
