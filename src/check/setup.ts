import pg from 'pg'
import type { Config } from '../config/schema.js'
import { parseTable } from '../postgres/outbox/table-name.js'
import { replacePublication } from '../postgres/replication/publication.js'
import { type RenamedSchema, renameSchemaBack } from '../postgres/setup/renamed-schema.js'
import { haltingIncidents, inStreams } from '../postgres/state/halting.js'
import { classifyHistory } from '../postgres/state/history.js'
import { decodesWithoutPublication } from '../postgres/state/remedy.js'
import { isSelfRepairing, repairPolicy } from '../postgres/state/repair-state.js'
import {
  ADOPT,
  blocker,
  type Finding,
  INCIDENTS,
  inConfiguration,
  info,
  inSql,
  isOpen,
  onShell,
  SETUP,
  warning,
} from './finding.js'
import { assessOutbox, assessRecorded, isMapped } from './outbox.js'
import { replicationFix } from './provider.js'
import { assessRetention } from './retention.js'
import type { ReplicationProbe, ServerFacts } from './server-facts.js'
import type { SetupFacts } from './setup-facts.js'
import { assessSlot, slotTaken } from './slot.js'
import { assessTrimming } from './trimming.js'

/** What `outrider setup` does not bring: the right to replicate, and a table of the team's own. Pure. */
export function assessGiven(facts: SetupFacts, server: ServerFacts, link: ReplicationProbe, config: Config): Finding[] {
  const findings = [replication(facts, server, link), ...(isMapped(config) ? assessOutbox(facts, config) : [])]
  return findings.filter((finding) => finding !== undefined)
}

/** What it brings: membership, schema, lineage, slot and publication; and what came of them. Pure. */
export function assessSetup(facts: SetupFacts, server: ServerFacts, config: Config): Finding[] {
  const findings = facts.renamed ? [renamedSchema(facts.renamed)] : [tables(facts, server), migrations(facts)]
  const whole = !findings.some((finding) => finding && isOpen(finding))
  if (whole) findings.push(...assessLineage(facts, server, config))
  if (facts.rights.schema && !isMapped(config)) findings.push(...assessOutbox(facts, config))
  return findings.filter((finding) => finding !== undefined)
}

/** What the server answers counts for more than what the catalogue says. */
function replication(
  { rights }: SetupFacts,
  { role, provider }: ServerFacts,
  link: ReplicationProbe,
): Finding | undefined {
  const refused = 'code' in link && (link.code === '42501' || !rights.replication)
  if (!refused) return undefined
  return blocker({
    id: 'replication-privilege',
    is: `role ${role} may not replicate`,
    expected: 'REPLICATION',
    why: 'the relay reads WAL, not the table',
    fix: [replicationFix(provider, role)],
  })
}

function tables({ rights }: SetupFacts, { role, version }: ServerFacts): Finding | undefined {
  if (!rights.schema || rights.tables) return undefined
  const name = pg.escapeIdentifier(role)
  const inherit =
    version >= 160_000 ? `grant outrider_relay to ${name} with inherit true;` : `alter role ${name} inherit;`
  return blocker({
    id: 'relay-role',
    is: `role ${role} ${rights.member ? 'is a member of outrider_relay, but does not inherit its rights' : 'is no member of outrider_relay'}`,
    expected: 'a member that inherits its rights',
    why: "the relay keeps its state in Outrider's tables",
    fix: [
      {
        how: 'In SQL, as an administrator',
        text: rights.member ? inherit : `grant outrider_relay to ${name};`,
      },
    ],
  })
}

const renamedSchema = (renamed: RenamedSchema): Finding =>
  blocker({
    id: 'schema-renamed',
    is: `the schema of this slot and publication is named ${renamed.name}${renamed.isReplaced ? ', and another one outrider' : ''}`,
    expected: 'the name outrider',
    why: 'the relay keeps its state there, and a second schema would have no slot',
    fix: [inSql(renameSchemaBack(renamed))],
  })

function migrations({ rights, applied, known }: SetupFacts): Finding | undefined {
  if (!rights.schema) {
    return blocker({
      id: 'setup-missing',
      is: 'no schema outrider in this database',
      expected: 'the outbox, and what the relay keeps',
      why: 'there is nothing to publish from',
      fix: [SETUP],
    })
  }
  if (!applied) return undefined
  const { foreign, missing, newer } = classifyHistory(applied, known)
  if (foreign) {
    return blocker({
      id: 'schema-foreign',
      is: foreign.found,
      expected: foreign.expected,
      why: 'this version does not know what the tables hold',
      fix: [onShell('npm install outrider@latest', '; or the version that set it up')],
    })
  }
  if (missing.length > 0) {
    return blocker({
      id: 'schema-outdated',
      is: `migrations are missing: ${missing.join(', ')}`,
      expected: `all up to ${known.at(-1)?.name}`,
      why: 'the relay needs what they bring',
      fix: [SETUP],
    })
  }
  if (newer.length === 0) return undefined
  return info({
    id: 'schema-newer',
    is: `the schema is newer than this version (${newer.join(', ')}), and serves it`,
    why: 'an upgrade is under way, or was taken back; nothing to do',
  })
}

function assessLineage(facts: SetupFacts, server: ServerFacts, config: Config): (Finding | undefined)[] {
  const { lineage } = facts
  if (!lineage) return [facts.slot ? slotTaken(facts, config) : noLineage(config)]
  if (lineage.confirmedLsn === undefined) {
    const interrupted = blocker({
      id: 'setup-interrupted',
      is: `the setup of slot ${config.slot} was interrupted before the slot was recorded`,
      expected: 'a finished setup',
      why: 'the relay does not know where to begin',
      fix: [SETUP],
    })
    return [interrupted]
  }
  return [
    ...fixedSettings(facts, config),
    sameServer(facts),
    ...assessSlot(facts, server, config),
    publication(facts, server, config),
    ...assessRecorded(facts, config),
    ...(isMapped(config) ? [] : assessRetention(facts, config)),
    ...incidents(facts, server, config),
    ...assessTrimming(facts, config),
    unpruned(facts, server),
  ]
}

/** Rights that came with a later version, where rights are granted one by one. */
function unpruned({ rights }: SetupFacts, { role }: ServerFacts): Finding | undefined {
  if (rights.unpruned.length === 0) return undefined
  const tables = rights.unpruned.map((table) => `outrider.${table}`).join(', ')
  return warning({
    id: 'prune-privilege',
    is: `role ${role} may not delete from ${tables}`,
    expected: 'DELETE, as outrider_relay has it',
    why: 'what is not needed there any longer stays, and the tables grow',
    fix: [inSql(`grant delete on ${tables} to ${pg.escapeIdentifier(role)};`)],
  })
}

const noLineage = (config: Config): Finding =>
  blocker({
    id: 'lineage-missing',
    is: `slot ${config.slot} was not set up in this database`,
    expected: 'a lineage with a slot of this name',
    why: 'the relay reads from that slot',
    fix: [SETUP],
  })

/** What is fixed for the life of a lineage. */
function fixedSettings({ lineage, published }: SetupFacts, config: Config): Finding[] {
  // The same table under its new name: setup records it.
  const renamed = published?.table === config.outbox.table && lineage?.outboxOids.includes(published.oid)
  const pairs: [string, string | undefined, string | undefined][] = [
    ['OUTRIDER_SOURCE', lineage?.source, config.source],
    ['OUTRIDER_PUBLICATION', lineage?.publication, config.publication],
    ['outbox.table', renamed ? undefined : lineage?.outboxTable, config.outbox.table],
  ]
  return pairs.flatMap(([name, stored, configured]) => {
    if (stored === undefined || configured === undefined || stored === configured) return []
    return blocker({
      id: 'config-differs',
      is: `${name} is ${configured}`,
      expected: `${stored}, as it was set up`,
      why: 'another one would leave a hole, or hide duplicates from consumers',
      fix: [inConfiguration(name.startsWith('OUTRIDER') ? `${name}=${stored}` : `${name}: ${stored}`)],
    })
  })
}

function sameServer({ lineage, identity }: SetupFacts): Finding | undefined {
  if (!lineage || !identity) return undefined
  if (identity.systemId === lineage.systemId && identity.timeline >= lineage.timeline) return undefined
  return blocker({
    id: 'server-foreign',
    is: `system ${identity.systemId}, timeline ${identity.timeline}`,
    expected: `system ${lineage.systemId}, timeline ${lineage.timeline} or later`,
    why: 'this database was restored, upgraded or copied since it was set up',
    fix: [ADOPT],
  })
}

function publication(
  { lineage, publicationState, omitted, incidents }: SetupFacts,
  { version }: ServerFacts,
  config: Config,
): Finding | undefined {
  if (!lineage || (publicationState === lineage.publicationState && !omitted)) return undefined
  // Recorded already: the incident says what to do.
  if (incidents.some(({ reason }) => reason.startsWith('publication_'))) return undefined
  if (publicationState === null) {
    const repaired = isSelfRepairing(repairPolicy(config, lineage.outboxTable))
    return blocker({
      id: 'publication-missing',
      is: `no publication ${lineage.publication}`,
      expected: `one for ${lineage.outboxTable}`,
      why: 'inserts made without it are not decoded',
      fix: repaired
        ? [SETUP, onShell('outrider relay', ', which puts back what was not decoded meanwhile')]
        : decodesWithoutPublication(version)
          ? [SETUP, INCIDENTS]
          : [ADOPT],
    })
  }
  return blocker({
    id: 'publication-changed',
    is: omitted
      ? `publication ${lineage.publication} is to publish ${omitted.table}, but ${omitted.omissions.join(' and ')}`
      : `publication ${lineage.publication} was altered since it was last known to be whole`,
    expected: `one that publishes the inserts of ${lineage.outboxTable}, and stays as it is`,
    why: 'rows may have passed unseen, also when the change was undone',
    fix: [
      {
        how: 'In SQL, as its owner: the publication as it should be, in one transaction, so that nothing is missed in between',
        text: replacePublication(lineage.publication, parseTable(omitted?.table ?? config.outbox.table)),
      },
      onShell('outrider relay', ', which records the gap'),
      INCIDENTS,
    ],
  })
}

const incidents = ({ incidents, repair, lineage }: SetupFacts, { version }: ServerFacts, config: Config): Finding[] =>
  haltingIncidents(incidents, repair, version, repairPolicy(config, lineage?.outboxTable)).flatMap(
    ({ incident, repair, steps, byItself }) => {
      if (repair.is === 'settling') return []
      const { id, kind, reason } = incident
      const show = `outrider incidents show ${id}`
      const is = `${kind}, ${reason}${inStreams(incident)}`
      if (byItself) {
        return info({
          id: 'gap-repairing',
          is: `the relay repairs incident ${id}: ${is}`,
          why: `it publishes nothing newer until then; \`${show}\` has its progress`,
        })
      }
      const { sql, commands } = steps
      return blocker({
        id: 'incident-open',
        is: `incident ${id} is open: ${is}`,
        expected: 'none that waits for a decision',
        why: 'the relay publishes nothing until then',
        fix:
          sql.length === 0
            ? [onShell([show, ...commands].join('\n'))]
            : [onShell(show), inSql(sql.join('\n')), onShell(commands.join('\n'))].filter(({ text }) => text !== ''),
      })
    },
  )
