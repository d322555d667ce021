import { paint } from '../../src/cli/output.js'
import { GROUPS, type GroupName, type PerGroup, perGroup } from './groups.js'
import type { Terminal } from './terminal.js'

const WIDEST = 72
/** Without a terminal: the share of the events between two printed lines. */
const LINE_EVERY = 0.25

/** How many events were committed, published and processed so far. */
export interface State {
  committed: number
  published: number
  done: PerGroup<number>
}

export const format = (number: number): string => Math.round(number).toLocaleString('en-US')
export const formatSeconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`

/** How far the events are: a bar for the streams and one for each group on a terminal, now and then a line elsewhere. */
export class Progress {
  readonly #terminal: Terminal
  readonly #events: number
  /** Where on each bar something was killed, in events. */
  readonly #relayKills: number[] = []
  readonly #workerKills: PerGroup<number[]> = perGroup(() => [])
  #note = ''
  #lines = 0

  constructor(terminal: Terminal, events: number) {
    this.#terminal = terminal
    this.#events = events
  }

  relayKilled(published: number): void {
    this.#relayKills.push(published)
    this.#note = `relay killed ${times(this.#relayKills.length)}, the standby takes over …`
  }

  takenOver(ms: number): void {
    this.#note = `relay killed ${times(this.#relayKills.length)}, taken over after ${formatSeconds(ms)}`
    if (!this.#terminal.live) this.#terminal.say(this.#note)
  }

  workerKilled(group: GroupName, done: number): void {
    this.#workerKills[group].push(done)
  }

  show(state: State): void {
    const { committed, published, done } = state
    const groups = GROUPS.map((group) => `${group} ${format(done[group])}`)
    const counts = [`committed ${format(committed)}`, `published ${format(published)}`, ...groups].join(' · ')
    const kills = GROUPS.reduce((sum, group) => sum + this.#workerKills[group].length, 0)
    const killed = kills > 0 ? `workers killed ${times(kills)}` : ''
    if (this.#terminal.live) {
      const note = [this.#note, killed].filter(Boolean).join(' · ')
      this.#terminal.draw([...this.#bars(state), '', counts, paint('dim', note)])
      return
    }
    const share = Math.min(published, ...Object.values(done)) / this.#events
    if (share < (this.#lines + 1) * LINE_EVERY) return
    this.#lines = Math.floor(share / LINE_EVERY)
    this.#terminal.say([`${percent(share)}  ${counts}`, ...(killed ? [killed] : [])].join(' · '))
  }

  /** The bars stay, with the places where something was killed. */
  finish(): void {
    const all = { committed: this.#events, published: this.#events, done: perGroup(() => this.#events) }
    if (this.#terminal.live) this.#terminal.say(`${this.#bars(all).join('\n')}\n`)
  }

  #bars({ committed, published, done }: State): string[] {
    return [
      this.#bar('streams', published, committed, this.#relayKills),
      ...GROUPS.map((group) => this.#bar(group, done[group], published, this.#workerKills[group])),
    ]
  }

  /** `ahead`: how many are on the way to here. */
  #bar(name: string, here: number, ahead: number, kills: readonly number[]): string {
    const width = Math.min(WIDEST, this.#terminal.width - 20)
    const place = (count: number) => Math.floor((count / this.#events) * width)
    const crosses = new Set(kills.map((count) => Math.min(width - 1, place(count))))
    const cell = (n: number): string => {
      if (crosses.has(n)) return paint('red', '✕')
      if (n < place(here)) return paint('green', '━')
      return n < place(ahead) ? paint('yellow', '╍') : paint('dim', '─')
    }
    const cells = Array.from({ length: width }, (_, n) => cell(n)).join('')
    return `${name.padEnd(8)} ${cells} ${percent(here / this.#events)}`
  }
}

const percent = (share: number): string => `${String(Math.floor(share * 100)).padStart(3)} %`

export const times = (count: number): string => (count === 1 ? 'once' : count === 2 ? 'twice' : `${count} times`)
