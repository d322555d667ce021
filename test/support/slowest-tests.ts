import type { Reporter, TestModule } from 'vitest/node'

/** One test and how long it took. */
export interface Timed {
  file: string
  name: string
  milliseconds: number
}

const MAX_ROWS = 20

/** Prints the slowest tests after a run: where to look when it takes too long. */
export class SlowestTests implements Reporter {
  readonly #print: (text: string) => void

  constructor(print: (text: string) => void = console.log) {
    this.#print = print
  }

  onTestRunEnd(modules: readonly TestModule[]): void {
    const timed = modules.flatMap((module) =>
      [...module.children.allTests()].flatMap((test) => {
        const duration = test.diagnostic()?.duration
        return duration === undefined
          ? []
          : [{ file: module.relativeModuleId, name: test.fullName, milliseconds: duration }]
      }),
    )
    if (timed.length > 1) this.#print(slowestTable(timed))
  }
}

/** The slowest first: seconds, file and name. */
export function slowestTable(timed: readonly Timed[]): string {
  const slowest = timed.toSorted((a, b) => b.milliseconds - a.milliseconds).slice(0, MAX_ROWS)
  const rows = slowest.map(
    ({ file, name, milliseconds }) => `${(milliseconds / 1000).toFixed(1).padStart(8)} s  ${file}  ${name}`,
  )
  return [`\nSlowest ${rows.length} of ${timed.length} tests`, ...rows].join('\n')
}
