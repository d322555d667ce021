import type { RepairProgress } from '../postgres/state/repair-progress.js'
import type { RepairState } from '../postgres/state/repair-state.js'
import { count, formatDuration, plural } from './format.js'

/** How far the repair of a gap is, in sentences; undefined where none is under way. Pure. */
export function describeRepair(state: RepairState): string | undefined {
  switch (state.is) {
    case 'running':
      return describeRunning(state.progress)
    case 'blocked':
      return `The relay has halted its repair (${state.halt.reason}): ${state.halt.message}`
    case 'settling':
      return describeSettling(state.progress)
    default:
      return undefined
  }
}

function describeRunning({ found, putBack, perSecond, attempts }: RepairProgress): string {
  const again = attempts > 1 ? ` This is attempt ${attempts}.` : ''
  if (found === null) return `The relay compares the table with the streams, to find what is missing.${again}`
  const remaining = Math.max(0, found - putBack)
  const rate =
    perSecond === null
      ? ''
      : `, ${count(Math.max(1, perSecond))}/s` +
        (remaining > 0 ? `, about ${formatDuration((remaining / perSecond) * 1000)} left` : '')
  return `The relay puts back what is missing: ${count(putBack)} of ${plural(found, 'event')}, ${count(remaining)} remaining${rate}.${again}`
}

function describeSettling(progress: RepairProgress | undefined): string {
  if (!progress) return 'The missing events are put back. It is closed within seconds.'
  const { putBack, unsettled, prepared } = progress
  const done = `${plural(putBack, 'event')} put back.`
  if (unsettled === 0) return `${done} It is closed within seconds.`
  const waits = `It is closed when ${plural(unsettled, 'transaction')} that ${unsettled === 1 ? 'was' : 'were'} open then ${unsettled === 1 ? 'has' : 'have'} ended.`
  if (prepared.length === 0) return `${done} ${waits}`
  const gids = prepared.map((gid) => `'${gid.replaceAll("'", "''")}'`)
  return `${done} ${waits} Prepared, and to be ended with \`commit prepared\` or \`rollback prepared\`: ${gids.join(', ')}.`
}
