import { readFileSync, writeFileSync } from 'node:fs'
import { FALLBACKS, variableOf } from '../src/config/variables.js'
import { configSchema, type Schema } from './config-schema.js'

/** Writes the tables of docs/configuration.md. Defaults, values and variables come from src/config. */
export const CONFIG_PAGE = new URL('../docs/configuration.md', import.meta.url)

const START = '<!-- settings: written by scripts/config-docs.ts -->\n'
const END = '<!-- /settings -->\n'

/** The tables, with the beginnings of the paths of their settings. Each setting is in the first that has it. */
const TABLES: Record<string, string[]> = {
  Postgres: ['postgres.'],
  Redis: ['redis.'],
  Publishing: [
    'slot',
    'publication',
    'source',
    'durability',
    'maxEventBytes',
    'limits.',
    'onGap',
    'repairMaxEvents',
    'retention',
  ],
  'The process': ['http.', 'logLevel', 'drainTimeout'],
  'One stream': ['streams.'],
  'An outbox table of your own': ['outbox.'],
}

/** What value, limit and default do not say. */
const NOTES: Record<string, string> = {
  'postgres.url':
    'a direct connection, not through a pooler. `sslmode=require` verifies the certificate, as `verify-full` does',
  'postgres.password': 'instead of the one in the URL',
  'postgres.tls.ca': 'the certificate of the server is always verified',
  'redis.url':
    '`redis://`, `rediss://`, `redis+sentinel://host:26379/name?node=host2:26379`, `redis+cluster://host:6379?node=…`',
  'redis.password': 'instead of the one in the URL',
  'redis.sentinelUsername': 'for the sentinels, where they need credentials of their own',
  'redis.tls.ca': 'the certificate of the server is always verified',
  slot: 'names of slots are shared by all databases of the server',
  source: '`source` of CloudEvents, stored by `outrider setup`',
  durability: '`auto`: the strongest level that works',
  maxEventBytes:
    'the largest `data` of a row, in bytes; its other columns may have 16 KiB in addition. A larger row becomes an incident. The relay holds the bytes of such a row once in memory; if the row has more than 8 MiB, it decodes only the columns of at most 64 KiB. `outrider setup` gives `data` of `outrider.outbox` the same limit, so that the insert fails; run it again after a change. Must not exceed `limits.inflightBytes`. The library checks its own limit first: `defineEvent({ maxBytes })`, 1 MiB by default ([producer.md](producer.md#limits))',
  'limits.batchEvents': 'the most events in one call of the append script',
  'limits.batchBytes': 'the most bytes in one call of the append script; must not exceed `limits.inflightBytes`',
  'limits.inflightBytes':
    'bytes of events in memory, with what their batches take; at this limit the relay stops reading',
  onGap:
    '`repair`: what Redis or the slot lost is put back from `outrider.outbox`; `halt`: the relay waits for a person. With a table of your own both halt. See [healing.md](healing.md)',
  repairMaxEvents: 'a repair of more events waits for `outrider incidents repair <id>`',
  retention:
    'rows of `outrider.outbox` that are published and older are emptied, a bucket at a time. An installation that was set up before there was retention keeps its rows until this or `retentionMaxSize` is set. Run `outrider setup` after a change to more than 80h. See [operations.md](operations.md#retention)',
  retentionMaxSize:
    'of `outrider.outbox` with its indexes: beyond it younger rows are emptied, too, as far as they are published',
  'http.port': '0: no HTTP server',
  drainTimeout: 'how long SIGTERM waits for the events in flight',
  'streams.*.partitions':
    'with 16: the streams `orders:0` … `orders:15`. The subject selects the partition. The number cannot be changed later',
  'streams.*.retention':
    'entries that are older go, once every group has finished them; `0`: none for its age. Default of a new installation: `7d` ([trimming.md](trimming.md))',
  'streams.*.maxFinished':
    'of the entries that every group has finished, so many stay, and those of the last 10 minutes. Default of a new installation without `retention`: `1000000`. Must be below `maxLength`',
  'streams.*.maxLength':
    'the oldest entries beyond so many go, **also those that groups have not finished**. Not set by default',
  'streams.*.trimAtMemory':
    'while Redis has used more than so much, what every group has finished goes early, but for the last 10 minutes; `0`: never. No effect where `maxmemory` is 0. Not set by default',
  'streams.*.deadLetterRetention': 'dead letters that are older go. Not set by default',
  'streams.*.groups': 'groups that trimming waits for, also before they exist',
  'outbox.table': 'without `outbox` the table is `outrider.outbox`; see [below](#an-outbox-table-that-exists-already)',
  'outbox.columns.time': 'without it, the time of the commit is published',
}

/** Defaults that depend on the database. */
const COMPUTED: Record<string, string> = { slot: 'outrider_<database>', source: '/<database>' }

interface Setting {
  path: string
  value: string
  default: string
}

/** The page, with its tables as src/config has the settings. */
export function configPage(): string {
  const text = readFileSync(CONFIG_PAGE, 'utf8')
  const start = text.indexOf(START)
  const end = text.indexOf(END)
  if (start < 0 || end < start) throw new Error(`Expected ${START.trim()} and ${END.trim()} in docs/configuration.md`)
  return text.slice(0, start) + START + tables() + text.slice(end)
}

function tables(): string {
  const settings = settingsOf(configSchema())
  const unknown = Object.keys(NOTES).filter((path) => !settings.some((setting) => setting.path === path))
  if (unknown.length > 0) throw new Error(`Expected notes on settings that exist, found ${unknown.join(', ')}`)
  const left = new Set(settings)
  const text = Object.entries(TABLES).map(([title, prefixes]) => {
    const own = settings.filter(({ path }) => prefixes.some((prefix) => path.startsWith(prefix)))
    for (const setting of own) left.delete(setting)
    return [
      `\n### ${title}\n`,
      '| in the file | variable | value | default | |',
      '|---|---|---|---|---|',
      ...own.map(row),
      '',
    ].join('\n')
  })
  if (left.size > 0)
    throw new Error(`Expected a table for each setting, found none for ${[...left].map(({ path }) => path)}`)
  return `${text.join('')}\n`
}

const code = (text: string): string => `\`${text}\``

function row({ path, value, default: preset }: Setting): string {
  const fallback = Object.keys(FALLBACKS).find((name) => FALLBACKS[name] === path)
  const variable = variableOf(path)
  const variables = [variable, fallback].filter((name) => name !== undefined).map(code)
  const shown = path.replace('*', '<name>')
  const cells = [code(shown), variables.join(' or '), value, preset, NOTES[path] ?? '']
  return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`
}

/** The settings below a schema: leaves, with `*` for a name that is free. */
function settingsOf(schema: Schema, path = '', required = false): Setting[] {
  const inner = Object.entries(schema.properties ?? {})
  if (typeof schema.additionalProperties === 'object') inner.push(['*', schema.additionalProperties])
  if (inner.length > 0) {
    return inner.flatMap(([key, value]) =>
      settingsOf(value, path === '' ? key : `${path}.${key}`, schema.required?.includes(key)),
    )
  }
  return [{ path, value: valueText(schema), default: required ? 'required' : defaultOf(path, schema) }]
}

function valueText({ description = '', enum: choices }: Schema): string {
  if (choices) return choices.map(code).join(', ')
  return description
    .replace(/^a (duration|size) such as .* and at most/, '$1, at most')
    .replace(/^an? /, '')
    .replace(/^the path of a file/, 'path of a file')
    .replace(/^the name/, 'name')
}

function defaultOf(path: string, schema: Schema): string {
  if (Object.values(FALLBACKS).includes(path)) return 'required, or `urlFile`'
  const preset = COMPUTED[path] ?? schema.default
  return preset === undefined ? '' : code(String(preset))
}

if (process.argv[1] === import.meta.filename) writeFileSync(CONFIG_PAGE, configPage())
