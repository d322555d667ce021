import type { Series } from './alert-health.js'

/** Seconds between two scrapes: on the grid of minutes and beside it. */
export const SCRAPES = [15, 30, 37, 53, 60]

const FIRST = 30 * 60
const END = 90 * 60
/** Between a new pod and the next. */
const STEP = 60
/** From the upgrade to the rollback. */
const LATER = 9 * 60

/**
 * Three relays are replaced, and replaced again by the rollback, and each time the worst happens: the lock goes to the pod
 * that is next to go, so that there are three takeovers, each with a connection to Postgres and one to Redis.
 */
export function rollouts(scrape: number): Series {
  const series: Series = {}
  const add = (pod: string, from: number, takesOver: number, to: number) => {
    const samples = Array.from({ length: END / scrape + 1 }, (_, n) => n * scrape)
    const values = samples.map((at) => (at < from || at > to ? '_' : at < takesOver ? '0' : '1'))
    for (const name of ['sessions', 'epochs']) {
      series[`outrider_${name}_total{namespace="shop",job="shop-outrider",pod="${pod}"}`] = values.join(' ')
    }
  }
  const generations = [
    { from: 0, to: FIRST },
    { from: FIRST, to: FIRST + LATER },
    { from: FIRST + LATER, to: END },
  ]
  for (const [generation, { from, to }] of generations.entries()) {
    for (const n of [0, 1, 2]) {
      const began = from + (from && n * STEP)
      const left = to === END ? END : to + n * STEP + 20
      // The next one takes over when the one before has left.
      const takesOver = from + n * STEP + 30
      add(`${generation}-${n}`, began, takesOver, left)
    }
  }
  return series
}
