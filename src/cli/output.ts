import { createInterface } from 'node:readline/promises'
import { styleText } from 'node:util'
import { ExitCode, OutriderError } from '../base/failure.js'

type Style = Parameters<typeof styleText>[0]
type Output = NodeJS.WriteStream & { fd: 1 | 2 }

/** Text in colour on a terminal; as it is elsewhere, and where NO_COLOR is set. https://no-color.org */
export function paint(style: Style, text: string, output: NodeJS.WriteStream = process.stdout): string {
  return (output as Output).isTTY && !process.env.NO_COLOR ? styleText(style, text, { validateStream: false }) : text
}

/**
 * Text that someone else wrote, for a terminal: what would move its cursor, change its colours or the direction of its
 * writing is shown as \u and four digits. Made so that JSON stays the same JSON.
 */
export const printable = (text: string): string =>
  text.replace(UNPRINTABLE, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, '0')}`)

// Controls of C0 and C1, marks of direction, invisible characters, and separators that some terminals break lines at.
const UNPRINTABLE = /[\p{Cc}\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu

/** One line that changes while long work continues; without a terminal there is none. */
export function progress(output: Pick<NodeJS.WriteStream, 'isTTY' | 'write'> = process.stderr) {
  let shown = Number.NEGATIVE_INFINITY
  return {
    /** `text` is only made when it is shown: ten times a second at most. */
    show(text: () => string): void {
      const now = performance.now()
      if (!output.isTTY || now - shown < 100) return
      shown = now
      output.write(`\r\u001b[2K${text()}`)
    },
    /** Takes the line away, before anything else is written. */
    clear(): void {
      if (shown > 0) output.write('\r\u001b[2K')
      shown = Number.NEGATIVE_INFINITY
    },
  }
}

/** Asks for a yes on the terminal; without one it says how to answer beforehand. */
export async function askOnTerminal(question: string): Promise<boolean> {
  if (!process.stdin.isTTY) {
    throw new OutriderError(`${question} There is no terminal to answer on. Run it again with --yes to say yes.`, {
      exitCode: ExitCode.usage,
    })
  }
  const lines = createInterface({ input: process.stdin, output: process.stderr })
  try {
    return /^y(es)?$/i.test((await lines.question(`${question} [y/N] `)).trim())
  } finally {
    lines.close()
  }
}

/** Without a terminal, progress is logged so often, in milliseconds. */
const LOG_EVERY_MS = 10_000

/** Without a terminal: true once in each stretch of time, not in the first. */
export function atMostEvery(milliseconds = LOG_EVERY_MS): () => boolean {
  let last = performance.now()
  return () => {
    const now = performance.now()
    if (process.stderr.isTTY || now - last < milliseconds) return false
    last = now
    return true
  }
}
