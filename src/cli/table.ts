import { eastAsianWidth } from 'get-east-asian-width'
import { paint } from './output.js'

const graphemes = new Intl.Segmenter('en', { granularity: 'grapheme' })

/** Columns of a terminal that a text takes. */
export function widthOf(text: string): number {
  if (/^[ -~]*$/.test(text)) return text.length
  let width = 0
  for (const { segment } of graphemes.segment(text)) width += graphemeWidth(segment)
  return width
}

function graphemeWidth(segment: string): number {
  if (/^[\p{Cc}\p{Cf}\p{M}]+$/u.test(segment)) return 0
  if (/\p{Emoji_Presentation}|\ufe0f/u.test(segment)) return 2
  return eastAsianWidth(segment.codePointAt(0) as number)
}

/** At most so many columns, with an ellipsis for what is left out. */
export function cutToWidth(text: string, most: number): string {
  if (widthOf(text) <= most) return text
  let cut = ''
  let width = 0
  for (const { segment } of graphemes.segment(text)) {
    width += graphemeWidth(segment)
    if (width > most - 1) break
    cut += segment
  }
  return `${cut}…`
}

const padTo = (text: string, width: number): string => text + ' '.repeat(Math.max(0, width - widthOf(text)))
const alignRight = (text: string, width: number): string => ' '.repeat(Math.max(0, width - widthOf(text))) + text

/** As wide as the terminal; elsewhere what COLUMNS says, or 80. */
export function outputWidth(output: Pick<NodeJS.WriteStream, 'columns' | 'isTTY'> = process.stdout): number {
  const columns = output.isTTY ? output.columns : Number(process.env.COLUMNS)
  return columns > 0 ? Math.max(40, columns) : 80
}

export interface TableOptions {
  /** Columns of the terminal. */
  width?: number
  /** Places of columns that may be cut, the first of them first; without any, rows may be wider. */
  shrink?: readonly number[]
  /** Places of columns with numbers. */
  right?: readonly number[]
}

const MIN_SHRUNK = 8

/** Columns as wide as their widest cell, two spaces apart. The first row is the head. */
export function table(rows: readonly (readonly string[])[], options: TableOptions = {}): string {
  const { width = outputWidth(), shrink = [], right = [] } = options
  const widths: number[] = []
  for (const row of rows) {
    for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, widthOf(cell))
  }
  let over = totalOf(widths) - width
  for (const column of shrink) {
    const own = widths[column] ?? 0
    const less = Math.max(0, Math.min(over, own - MIN_SHRUNK))
    widths[column] = own - less
    over -= less
  }
  return rows
    .map((row, at) => {
      const line = row
        .map((cell, i) => {
          const text = shrink.includes(i) ? cutToWidth(cell, widths[i] as number) : cell
          if (right.includes(i)) return alignRight(text, widths[i] as number)
          return i === row.length - 1 ? text : padTo(text, widths[i] as number)
        })
        .join('  ')
      return at === 0 ? paint('bold', line) : line
    })
    .join('\n')
}

const totalOf = (widths: readonly number[]): number => widths.reduce((sum, each) => sum + each + 2, -2)

/** A number stays with its unit. */
const QUANTITY = /(\d) (?=(?:[KMGT]?iB|B|min|h|s|d)\b)/g

/** Words in lines of at most so many columns; the second line and all after it are indented. */
export function wrap(text: string, width = outputWidth(), indent = ''): string {
  const lines: string[] = []
  let line = ''
  for (const word of text.replace(QUANTITY, '$1\u00a0').split(/[ \n]+/)) {
    if (line !== '' && widthOf(line) + 1 + widthOf(word) > width) {
      lines.push(line)
      line = indent + word
    } else line = line === '' ? word : `${line} ${word}`
  }
  return [...lines, line].join('\n').replaceAll('\u00a0', ' ')
}
