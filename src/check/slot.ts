import type { Config } from '../config/schema.js'
import { parseLsn } from '../postgres/client/lsn.js'
import { isSelfRepairing, repairPolicy } from '../postgres/state/repair-state.js'
import { ADOPT, blocker, type Finding, INCIDENTS, inConfiguration, onShell, SETUP, warning } from './finding.js'
import { settingFix } from './provider.js'
import type { ServerFacts } from './server-facts.js'
import type { SetupFacts } from './setup-facts.js'

/** The slot of a lineage that is set up. Pure. */
export const assessSlot = (facts: SetupFacts, server: ServerFacts, config: Config): (Finding | undefined)[] => [
  slotState(facts, config),
  slotWal(facts, config),
  slotFailover(facts, server, config),
  standbySlots(facts, server, config),
]

/** A slot without a lineage. */
export const slotTaken = ({ slot }: SetupFacts, config: Config): Finding =>
  blocker({
    id: 'slot-foreign',
    is: `a slot ${config.slot} that Outrider did not make${slot?.here ? '' : `, in database ${slot?.database ?? '(none)'}`}`,
    expected: 'a name that is free',
    why: 'what another client has read from it is unknown',
    fix: [inConfiguration(`OUTRIDER_SLOT=${config.slot}_relay`), SETUP],
  })

const REPAIR = onShell(
  'outrider relay',
  ', which creates a new slot, and puts back from the table what the old one missed',
)

function slotState({ slot, lineage, incidents }: SetupFacts, config: Config): Finding | undefined {
  const repaired = isSelfRepairing(repairPolicy(config, lineage?.outboxTable))
  // Recorded already: the incident says what to do.
  if (incidents.some(({ reason }) => reason.startsWith('slot_'))) return undefined
  if (!slot?.here) {
    return blocker({
      id: 'slot-missing',
      is: slot ? `slot ${config.slot} belongs to database ${slot.database}` : `no slot ${config.slot}`,
      expected: 'the slot of this lineage',
      why: 'what was committed since it was last read cannot be read from WAL',
      fix: [repaired && !slot ? REPAIR : ADOPT],
    })
  }
  const confirmed = lineage?.confirmedLsn
  const ahead =
    confirmed !== undefined &&
    slot.state?.confirmedFlush !== undefined &&
    slot.state.confirmedFlush > parseLsn(confirmed)
  if (slot.walStatus === 'lost' || slot.plugin !== 'pgoutput') {
    return blocker({
      id: 'slot-lost',
      is:
        slot.plugin === 'pgoutput'
          ? `slot ${config.slot} is lost${slot.invalidation ? ` (${slot.invalidation})` : ''}`
          : `slot ${config.slot} decodes with ${slot.plugin}`,
      expected: 'a slot of pgoutput that has kept its WAL',
      why: 'what was committed meanwhile cannot be read from it',
      fix: [repaired && slot.plugin === 'pgoutput' ? REPAIR : ADOPT],
    })
  }
  if (!ahead) return undefined
  return blocker({
    id: 'slot-ahead',
    is: `slot ${config.slot} stands beyond what the relay confirmed`,
    expected: 'a slot that only the relay moves',
    why: 'rows may have been passed over',
    fix: [onShell('outrider relay', ', which records the gap'), INCIDENTS],
  })
}

const GIB = 1_073_741_824

function slotWal({ slot }: SetupFacts, config: Config): Finding | undefined {
  const state = slot?.state
  if (!slot || !state || state.walStatus === 'lost') return undefined
  const { retainedBytes, safeBytes } = state
  const near = safeBytes !== undefined && retainedBytes > safeBytes
  if (state.walStatus !== 'unreserved' && !near && (safeBytes !== undefined || retainedBytes < 5 * GIB))
    return undefined
  return (state.walStatus === 'unreserved' ? blocker : warning)({
    id: 'slot-wal',
    is: `slot ${config.slot} holds back ${mebibytes(retainedBytes)} of WAL, ${safeBytes === undefined ? 'without a limit' : `${mebibytes(Math.max(0, safeBytes))} before it may be lost`}`,
    expected: 'little',
    why: slot.active ? 'the relay does not keep up, or cannot publish' : 'no relay reads it',
    fix: [slot.active ? INCIDENTS : onShell('outrider relay')],
  })
}

const mebibytes = (bytes: number): string => `${Math.round(bytes / 1_048_576)} MiB`

function slotFailover({ slot }: SetupFacts, { standbys, database }: ServerFacts, config: Config): Finding | undefined {
  if (!standbys.present || slot?.failover !== false) return undefined
  return warning({
    id: 'slot-failover',
    is: `slot ${config.slot} has failover = false, and there is a standby`,
    expected: 'failover = true, and sync_replication_slots = on at the standby',
    why: 'after a failover the slot would be gone, which is a gap',
    fix: [
      {
        how: 'On the command line, as a role with REPLICATION, while no relay runs',
        text: `psql "dbname=${database} replication=database" -c 'ALTER_REPLICATION_SLOT ${config.slot} (FAILOVER true)'`,
      },
    ],
  })
}

/** Only a slot that standbys take over waits for them. */
function standbySlots({ slot }: SetupFacts, server: ServerFacts, config: Config): Finding | undefined {
  const { silentStandbySlots, settings, provider } = server
  if (silentStandbySlots.length === 0 || slot?.failover !== true) return undefined
  const setting = settings.synchronized_standby_slots?.value ?? ''
  const silent = new Set(silentStandbySlots.map(({ name }) => name))
  const left = setting.match(/[a-z0-9_]+/g)?.filter((name) => !silent.has(name)) ?? []
  return blocker({
    id: 'standby-slots',
    is: `synchronized_standby_slots names ${silentStandbySlots.map(({ name, problem }) => `${name}, which is ${problem}`).join(', and ')}`,
    expected: 'physical slots that a standby is streaming from: start it again, or remove its slot from the setting',
    why: `Postgres sends nothing through slot ${config.slot} until each of them has confirmed`,
    fix: [settingFix(provider, { name: 'synchronized_standby_slots', value: left.join(', ') })],
  })
}
