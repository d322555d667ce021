import { writeFileSync } from 'node:fs'
import { z } from 'zod'
import { settings } from '../src/config/schema.js'

export const CONFIG_SCHEMA = new URL('../docs/config.schema.json', import.meta.url)

/** A JSON Schema, as far as it is used here. */
export interface Schema {
  description?: string
  type?: string | string[]
  enum?: string[]
  default?: unknown
  properties?: Record<string, Schema>
  additionalProperties?: Schema | boolean
  required?: string[]
}

/** The defaults are those of a configuration that gives only what is required. A mapping of a table has none of its own. */
const { outbox: _, ...DEFAULTS } = settings.parse({
  postgres: { url: 'postgres://host/database' },
  redis: { url: 'redis://host' },
})

const UNITS = {
  duration: { h: 3_600_000, m: 60_000, s: 1_000, ms: 1 },
  size: { GiB: 1_073_741_824, MiB: 1_048_576, KiB: 1_024, B: 1 },
}

/**
 * The settings that a configuration file may hold. Nothing is required: a variable may give what the file does not.
 * `urlFile` is read before the settings are checked, so that `settings` does not have it.
 */
export function configSchema(): Schema {
  const { $schema, ...schema } = z.toJSONSchema(settings, { target: 'draft-7', io: 'input' }) as Schema & {
    $schema: string
  }
  for (const server of ['postgres', 'redis']) {
    const section = schema.properties?.[server]
    if (!section?.properties?.url) throw new Error(`Expected the settings to have ${server}.url`)
    const { url, ...rest } = section.properties
    const urlFile = { description: 'the path of a file that holds the URL', type: 'string' }
    section.properties = { url, urlFile, ...rest }
    delete section.required
  }
  delete schema.required
  addDefaults(schema, {
    ...DEFAULTS,
    postgres: { ...DEFAULTS.postgres, url: undefined },
    redis: { ...DEFAULTS.redis, url: undefined },
  })
  return { $schema, title: 'Outrider: configuration file of the relay', ...schema } as Schema
}

function addDefaults(schema: Schema, value: unknown): void {
  if (value === undefined) return
  if (schema.properties === undefined && schema.additionalProperties === undefined) {
    schema.default = written(value, schema.description ?? '')
    return
  }
  for (const [key, inner] of Object.entries(schema.properties ?? {})) {
    addDefaults(inner, (value as Record<string, unknown>)[key])
  }
}

/** A duration or a size in the largest unit that it is a whole number of; anything else as it is. */
function written(value: unknown, description: string): unknown {
  const [, kind] = /^a (duration|size) /.exec(description) ?? []
  if (typeof value !== 'number' || kind === undefined) return value
  const units = Object.entries(UNITS[kind as keyof typeof UNITS])
  const [unit, factor] = units.find(([, factor]) => value % factor === 0) ?? ['', 1]
  return `${value / factor}${unit}`
}

export const configSchemaJson = (): string => `${JSON.stringify(configSchema(), undefined, 2)}\n`

if (process.argv[1] === import.meta.filename) writeFileSync(CONFIG_SCHEMA, configSchemaJson())
