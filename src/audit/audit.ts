import { readPartitions } from '../postgres/state/partitions.js'
import { readBounds } from './bounds.js'
import type { Share } from './comparison.js'
import type { AuditOptions } from './options.js'
import { Pass } from './pass.js'
import type { AuditReport } from './report.js'
import { OutboxRows } from './rows.js'
import { StreamSelection } from './streams.js'
import { Tally } from './tally.js'

/**
 * Compares the outbox table with the streams. Both are read in pages; what has no counterpart yet is kept as a hash. What
 * is left is looked up once more, in the table and in the streams, before it is called missing, extra or altered.
 * Reads only, but for one message of 20 kB in the WAL where an idle relay has something to confirm.
 */
export async function audit(options: AuditOptions): Promise<AuditReport> {
  const { postgres, lineage, mapping } = options
  const bounds = await readBounds(postgres, lineage.lineage, options.since)
  const partitions = await readPartitions(postgres)
  const rows = new OutboxRows(postgres, { mapping, source: lineage.source, partitions })
  const tally = new Tally(lineage, options)
  const selection = new StreamSelection(options.stream)
  const context = { options, bounds, rows, partitions, selection, tally, rowsInAll: await rows.estimate() }
  const shares: Share[] = [{ bits: 0, value: 0 }]
  for (let share = shares.pop(); share !== undefined; share = shares.pop()) {
    await new Pass(context, share, (other) => shares.push(other)).run()
  }
  return tally.report()
}
