import { type Lsn, parseLsn } from '../client/lsn.js'

/**
 * Which timeline owns an LSN. A promoted standby begins a new timeline and may give the same LSNs to other commits than
 * the old primary did; what lies before the switch belongs to the old timeline still, and is recognised when replayed.
 */
export interface TimelineHistory {
  /** The timeline that the server writes now. */
  current: number
  /** Earlier timelines, oldest first, each with the LSN at which the next one left it. */
  switches: { timeline: number; until: Lsn }[]
}

/**
 * Reads a history file, as TIMELINE_HISTORY gives it: lines of timeline, switch point and reason, between tabs.
 * Timeline 1 has none: pass an empty text.
 */
export function parseTimelineHistory(current: number, file: string): TimelineHistory {
  const switches = []
  for (const line of file.split('\n')) {
    const found = /^\s*(\d+)\s+([0-9A-Fa-f]+\/[0-9A-Fa-f]+)/.exec(line)
    if (found) switches.push({ timeline: Number(found[1]), until: parseLsn(found[2] as string) })
  }
  return { current, switches }
}

/** The timeline to which a commit record at `lsn` belongs. */
export function timelineOf(history: TimelineHistory, lsn: Lsn): number {
  for (const { timeline, until } of history.switches) if (lsn < until) return timeline
  return history.current
}
