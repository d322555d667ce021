import type { Config } from '../config/schema.js'
import { BUCKETS, MAX_WINDOW_BUCKETS } from '../postgres/outbox/buckets.js'
import type { RetentionHolder } from '../postgres/outbox/retention-holders.js'
import { type Finding, inConfiguration, info, onShell, SETUP, warning } from './finding.js'
import type { SetupFacts } from './setup-facts.js'

/** Whether Outrider's own table is emptied as the settings say. Pure. */
export function assessRetention({ buckets }: Pick<SetupFacts, 'buckets'>, config: Config): Finding[] {
  if (!buckets) return []
  const findings: Finding[] = []
  if (buckets.isSetUp === false) {
    findings.push(
      warning({
        id: 'outbox-buckets',
        is: 'inserts go to 8 buckets of outrider.outbox',
        expected: `${BUCKETS.length}, as the default of its column bucket`,
        why: 'an earlier setup found the table in use; no bucket is emptied until then',
        fix: [SETUP],
      }),
    )
  }
  if (config.retention === 0) return findings
  if (buckets.predatesRetention && !config.isRetentionSet) {
    findings.push(
      info({
        id: 'retention-not-set',
        is: 'rows stay in outrider.outbox: it was set up before there was retention, and no setting asks for it',
        why: `it grows without end; \`${inConfiguration('retention: default').text}\` empties what is published and older than 72h`,
      }),
    )
  }
  findings.push(...buckets.holders.map(held))
  const reachMs = MAX_WINDOW_BUCKETS * buckets.seconds * 1_000
  if (config.retention > reachMs) {
    findings.push(
      warning({
        id: 'retention-reach',
        is: `the buckets of outrider.outbox reach back ${reachMs / 3_600_000} h`,
        expected: `${Math.round(config.retention / 3_600_000)} h, as retention`,
        why: 'rows are emptied before they are as old as that',
        fix: [SETUP],
      }),
    )
  }
  return findings
}

/** Rows stay, for a day longer than they should. */
function held({ lineage, slot, reason }: RetentionHolder): Finding {
  const is = {
    checkpoint: 'has published nothing that is known to be as old as retention',
    slot: 'has no slot, or one that has not confirmed what it published',
    gap: 'has a gap that is open',
  }
  return warning({
    id: 'retention-held',
    is: `lineage ${lineage} of slot ${slot} ${is[reason]}`,
    expected: 'a relay that publishes, or no such lineage',
    why: 'no bucket of outrider.outbox is emptied, and the table grows',
    fix: [
      onShell(`OUTRIDER_SLOT=${slot} outrider relay`),
      onShell(
        `OUTRIDER_SLOT=${slot} outrider teardown`,
        ', as the role that owns the schema, if nothing is published with it any more',
      ),
    ],
  })
}
