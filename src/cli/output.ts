import { createInterface } from 'node:readline/promises'
import { styleText } from 'node:util'
import { ExitCode, Failure } from '../failure.js'

/** How a command talks to a person. Colour only on a terminal, and not where NO_COLOR is set. https://no-color.org */

type Style = Parameters<typeof styleText>[0]
type Output = NodeJS.WriteStream & { fd: 1 | 2 }

export function paint(style: Style, text: string, output: NodeJS.WriteStream = process.stdout): string {
  return (output as Output).isTTY && !process.env.NO_COLOR ? styleText(style, text, { validateStream: false }) : text
}

/** Columns as wide as their widest cell, two spaces apart. The first row is the head. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths: number[] = []
  for (const row of rows) {
    for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length)
  }
  return rows
    .map((row, at) => {
      const line = row.map((cell, i) => (i === row.length - 1 ? cell : cell.padEnd(widths[i] ?? 0))).join('  ')
      return at === 0 ? paint('bold', line) : line
    })
    .join('\n')
}

/** Asks for a yes on the terminal; without one it says how to answer beforehand. */
export async function askOnTerminal(question: string): Promise<boolean> {
  if (!process.stdin.isTTY) {
    throw new Failure(`${question} There is no terminal to answer on. Run it again with --yes to say yes.`, {
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
