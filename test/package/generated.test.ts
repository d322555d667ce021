import { readFileSync } from 'node:fs'
import { Ajv } from 'ajv'
import { expect, test } from 'vitest'
import { CONFIG_PAGE, configPage } from '../../scripts/config-docs.js'
import { CONFIG_SCHEMA, configSchema, configSchemaJson } from '../../scripts/config-schema.js'
import { DASHBOARD, dashboardJson } from '../../scripts/dashboard.js'
import { loadConfig } from '../../src/config/load.js'

// Where one of these fails: npm run generate
test.each([
  ['charts/outrider/files/dashboard.json', DASHBOARD, dashboardJson],
  ['docs/config.schema.json', CONFIG_SCHEMA, configSchemaJson],
  ['docs/configuration.md', CONFIG_PAGE, configPage],
])('%s is what its script writes', (_name, file, written) => {
  expect(readFileSync(file, 'utf8')).toBe(written())
})

test('the schema of the configuration takes every setting with its default, and no other key', () => {
  const validate = new Ajv({ strict: false }).compile(configSchema())
  const { source, isRetentionSet, ...settings } = loadConfig({
    env: { DATABASE_URL: 'postgres://db/shop', REDIS_URL: 'redis://redis' },
  })
  const file = { ...settings, source: '/shop', streams: { orders: { partitions: 16 } } }
  expect([validate(file), validate.errors]).toEqual([true, null])
  expect([source, isRetentionSet]).toEqual([undefined, false])
  expect(validate({ ...file, slott: 'shop' })).toBe(false)
  expect(validate({ ...file, limits: { batchEvent: 1 } })).toBe(false)
})
