import { paint } from '../../src/cli/output.js'
import type { Terminal } from './terminal.js'

const WIDEST = 72
/** Of the way, between two lines where nobody watches. */
const LINE_EVERY = 0.25

export interface State {
  committed: number
  published: number
}

export const format = (number: number): string => Math.round(number).toLocaleString('en-US')
export const formatSeconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`

/** How far the events are: a bar on a terminal, now and then a line elsewhere. */
export class ProgressBar {
  readonly #terminal: Terminal
  readonly #events: number
  readonly #began = performance.now()
  /** Where on the bar the relay was killed, from 0 to 1. */
  readonly #kills: number[] = []
  #note = ''
  #lines = 0

  constructor(terminal: Terminal, events: number) {
    this.#terminal = terminal
    this.#events = events
  }

  killed(published: number): void {
    this.#kills.push(published / this.#events)
    this.#note = `relay killed ${times(this.#kills.length)}, the standby takes over …`
  }

  takenOver(ms: number): void {
    this.#note = `relay killed ${times(this.#kills.length)}, taken over after ${formatSeconds(ms)}`
    if (!this.#terminal.live) this.#terminal.say(this.#note)
  }

  show(state: State): void {
    const done = state.published / this.#events
    const rate = state.published / ((performance.now() - this.#began) / 1000)
    const counts = `committed ${format(state.committed)} · published ${format(state.published)} · ${format(rate)}/s`
    if (this.#terminal.live) {
      const bar = `${this.#bar(state)} ${String(Math.floor(done * 100)).padStart(3)} %`
      this.#terminal.draw([bar, '', counts, paint('dim', this.#note)])
    } else if (done >= (this.#lines + 1) * LINE_EVERY) {
      this.#lines = Math.floor(done / LINE_EVERY)
      this.#terminal.say(`${String(Math.floor(done * 100)).padStart(3)} %  ${counts}`)
    }
  }

  /** The bar stays, with the places where the relay was killed. */
  finish(): void {
    if (this.#terminal.live)
      this.#terminal.say(`${this.#bar({ committed: this.#events, published: this.#events })} 100 %\n`)
  }

  #bar({ committed, published }: State): string {
    const width = Math.min(WIDEST, this.#terminal.width - 12)
    const place = (share: number) => Math.min(width - 1, Math.floor(share * width))
    const crosses = new Set(this.#kills.map(place))
    const cell = (n: number): string => {
      if (crosses.has(n)) return paint('red', '✕')
      if (n < Math.floor((published / this.#events) * width)) return paint('green', '━')
      return n < Math.floor((committed / this.#events) * width) ? paint('yellow', '╍') : paint('dim', '─')
    }
    return Array.from({ length: width }, (_, n) => cell(n)).join('')
  }
}

export const times = (count: number): string => (count === 1 ? 'once' : count === 2 ? 'twice' : `${count} times`)
