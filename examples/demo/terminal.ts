import { paint } from '../../src/cli/output.js'

const FRAMES = '⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏'
const FRAME_EVERY = 80
const MARGIN = '  '

/**
 * While lines are drawn, the cursor is hidden and long lines are cut off: a wrapped line would count as two when the
 * cursor moves up.
 */
const BEGIN = '\x1b[?25l\x1b[?7l'
const END = '\x1b[?7h\x1b[?25h'
const up = (lines: number): string => `\x1b[${lines}A`

/** Lines that stay, above lines that are drawn again and again. Where the output is no terminal, only those that stay. */
export class Terminal {
  /** Whether anybody watches. */
  readonly live: boolean
  readonly #output: NodeJS.WriteStream
  #drawn = 0

  constructor(output: NodeJS.WriteStream = process.stdout) {
    this.#output = output
    this.live = output.isTTY === true && process.env.TERM !== 'dumb'
    if (this.live) process.once('exit', () => this.close())
  }

  get width(): number {
    return this.live ? this.#output.columns || 80 : 80
  }

  say(text = ''): void {
    this.#erase()
    this.#output.write(`${text.replace(/^(?=.)/gm, MARGIN)}\n`)
  }

  /** Takes the place of what was drawn before. */
  draw(lines: string[]): void {
    if (!this.live) return
    const text = lines.map((line) => `${line === '' ? '' : MARGIN}${line}\x1b[K\n`).join('')
    // In one write, or it would flicker.
    this.#output.write(`${this.#drawn === 0 ? BEGIN : up(this.#drawn)}${text}\x1b[J`)
    this.#drawn = lines.length
  }

  /** One line for a piece of work: a spinner while it lasts, then the text that `work` returns, and how long it took. */
  async step<T>(
    title: string,
    hint: string,
    work: () => Promise<[result: T, text: string, note?: string]>,
  ): Promise<T> {
    const began = performance.now()
    const frame = () => FRAMES[Math.floor((performance.now() - began) / FRAME_EVERY) % FRAMES.length] as string
    const show = () => this.draw([`${paint('cyan', frame())} ${title}`, ...(hint ? [`  ${paint('dim', hint)}`] : [])])
    show()
    if (!this.live && hint) this.say(`… ${title}  ${hint}`)
    const timer = setInterval(show, FRAME_EVERY)
    try {
      const [result, text, note] = await work()
      clearInterval(timer)
      const seconds = `${((performance.now() - began) / 1000).toFixed(1)} s`
      this.say(`${paint('green', '✔')} ${text.padEnd(66)} ${paint('dim', seconds.padStart(6))}`)
      if (note) this.say(`  ${paint('dim', note)}`)
      return result
    } finally {
      clearInterval(timer)
      this.#erase()
    }
  }

  /** Leaves the terminal as it was. */
  close(): void {
    this.#erase()
  }

  #erase(): void {
    if (this.#drawn === 0) return
    this.#output.write(`${up(this.#drawn)}\x1b[J${END}`)
    this.#drawn = 0
  }
}
