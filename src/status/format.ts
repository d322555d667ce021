const UNITS: [string, number][] = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['min', 60_000],
  ['s', 1_000],
]

/** `3 d`, `5 h`, `12 min`, `40 s`; below a second `0 s`. */
export function formatDuration(milliseconds: number): string {
  for (const [unit, size] of UNITS) if (milliseconds >= 2 * size) return `${Math.floor(milliseconds / size)} ${unit}`
  return `${Math.max(0, Math.floor(milliseconds / 1000))} s`
}

export const ago = (milliseconds: number): string => `${formatDuration(milliseconds)} ago`

/** With commas: `1,000,000`. */
export const count = (number: number): string => format.format(number)

const format = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 })

export const plural = (number: number, one: string, many = `${one}s`): string =>
  `${count(number)} ${number === 1 ? one : many}`

/** `512 B`, `3.4 MiB`, `120 GiB`. */
export function formatSize(bytes: number): string {
  let value = bytes
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    if (value < 1024) return `${value < 10 && unit !== 'B' ? value.toFixed(1) : Math.round(value)} ${unit}`
    value /= 1024
  }
  return `${value.toFixed(1)} TiB`
}
