import { readFileSync, writeFileSync } from 'node:fs'
import { z } from 'zod'
import { settings } from '../src/config/schema.js'

const FILE = new URL('../charts/outrider/values.schema.json', import.meta.url)

interface Schema {
  properties: Record<string, Schema>
  required?: string[]
  [key: string]: unknown
}

/**
 * The chart's schema of values, with the relay's own settings under `config` as `src/config/schema.ts` has them. How Postgres
 * and Redis are reached is said by other values, so of these sections it takes only what is left.
 */
export function chartSchema(): string {
  const schema = JSON.parse(readFileSync(FILE, 'utf8'))
  const {
    $schema: _,
    required: _all,
    ...config
  } = z.toJSONSchema(settings, { target: 'draft-7', io: 'input' }) as Schema
  for (const server of ['postgres', 'redis'])
    config.properties[server] = only(config.properties[server], 'connectTimeout')
  schema.definitions.config = {
    description: 'The configuration of the relay, without how servers are reached.',
    ...config,
  }
  return `${JSON.stringify(schema, undefined, 2)}\n`
}

function only(section: Schema | undefined, key: string): Schema {
  const found = section?.properties[key]
  if (!section || !found) throw new Error(`Expected ${key} in a section of the settings, found none`)
  const { required: _, ...rest } = section
  return { ...rest, properties: { [key]: found } }
}

if (process.argv[1] === import.meta.filename) writeFileSync(FILE, chartSchema())
