import { describe, expect, it } from 'vitest'
import type { Config } from '../config/schema.js'
import { bucketSecondsFor } from '../postgres/setup/bucket-width.js'
import { assessRetention } from './retention.js'

const HOUR = 3_600_000
const config = (retention: number, isRetentionSet = true) => ({ retention, isRetentionSet }) as Config
const buckets = (more = {}) => ({
  buckets: { isSetUp: true, seconds: 14_400, predatesRetention: false, holders: [], ...more },
})
const ids = (...args: Parameters<typeof assessRetention>) =>
  assessRetention(...args).map(({ id, level }) => `${level} ${id}`)

describe('retention', () => {
  it('is as it should be in a new installation', () => {
    expect(ids(buckets(), config(72 * HOUR, false))).toEqual([])
    expect(ids({ buckets: undefined }, config(72 * HOUR))).toEqual([])
  })

  it('needs the buckets of this version', () => {
    expect(ids(buckets({ isSetUp: false }), config(72 * HOUR))).toEqual(['warning outbox-buckets'])
  })

  it('is not begun by an upgrade', () => {
    expect(ids(buckets({ predatesRetention: true }), config(72 * HOUR, false))).toEqual(['info retention-not-set'])
    expect(ids(buckets({ predatesRetention: true }), config(72 * HOUR))).toEqual([])
    expect(ids(buckets({ predatesRetention: true }), config(0))).toEqual([])
  })

  it('is held up by a lineage, which is named', () => {
    const holders = [{ lineage: 'a-lineage', slot: 'outrider_old', reason: 'checkpoint', ageMs: 1 }]
    const [finding, ...others] = assessRetention(buckets({ holders }), config(72 * HOUR))
    expect(finding).toMatchObject({ level: 'warning', id: 'retention-held' })
    expect(finding?.is).toMatch(/^lineage a-lineage of slot outrider_old has published nothing/)
    expect(finding?.fix.map(({ text }) => text)).toContain('OUTRIDER_SLOT=outrider_old outrider teardown')
    expect(others).toEqual([])
  })

  it('needs buckets that reach as far back', () => {
    expect(ids(buckets(), config(168 * HOUR))).toEqual(['warning retention-reach'])
    expect(ids(buckets(), config(80 * HOUR))).toEqual([])
    expect(ids(buckets({ seconds: bucketSecondsFor(168 * HOUR) }), config(168 * HOUR))).toEqual([])
    expect([bucketSecondsFor(HOUR), bucketSecondsFor(72 * HOUR), bucketSecondsFor(168 * HOUR)]).toEqual([
      14_400, 14_400, 36_000,
    ])
  })
})
