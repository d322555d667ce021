import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Head } from '../../event/head.js'
import type { Lsn } from '../../postgres/client/lsn.js'
import { DurabilityUnmetError, LEVELS, type Level } from '../../redis/streams/durability.js'
import { Confirmer, LOWER_AFTER, MEMORY_DELAY, type Pending, RAISE_EVERY } from './confirmer.js'

const headAt = (n: number): Head => ({ position: `p${n}`, event: `e${n}`, entry: `${n}-0` })
const pending = (lsn: number, heads: Record<string, number> = { orders: 1 }): Pending => ({
  lsn: BigInt(lsn),
  heads: new Map(Object.entries(heads).map(([key, n]) => [key, headAt(n)])),
})

const unmet = () => new DurabilityUnmetError('Expected a replica of Redis, found none.')
const lost = () => new Error('Connection is closed.')
const refused = (message: string) => Object.assign(new Error(message), { name: 'ReplyError' })

/** A confirmer between functions that do as they are told, and note in which order they were called. */
class Stage {
  readonly calls: string[] = []
  readonly taken: Pending[] = []
  readonly saved: { lsn: Lsn; heads: Map<string, Head> }[] = []
  readonly confirmed: Lsn[] = []
  readonly levels: Level[] = []
  readonly reached: Level[] = []
  problem: string | undefined
  trial: (level: Level) => Error | undefined = () => undefined
  barrier: (level: Level) => Error | undefined = () => undefined
  saving: () => Error | undefined = () => undefined
  readonly confirmer: Confirmer

  constructor(level: Level | 'auto', confirmed = 0n) {
    this.confirmer = new Confirmer(
      {
        level,
        take: () => this.taken.shift(),
        tryLevel: async (each) => this.#do(`try ${each}`, this.trial(each)),
        reachDurability: async (each, heads) => {
          this.#do(`reach ${each} ${show(heads)}`, this.barrier(each))
          this.reached.push(each)
        },
        save: async (lsn, heads) => {
          this.#do(`save ${lsn} ${show(heads)}`, this.saving())
          this.saved.push({ lsn, heads: new Map(heads) })
        },
        confirm: (lsn) => {
          this.calls.push(`confirm ${lsn}`)
          this.confirmed.push(lsn)
        },
        observe: {
          level: (each) => void this.levels.push(each),
          waited: () => {},
          unmet: (error) => {
            this.problem = error?.message
          },
        },
      },
      confirmed,
    )
  }

  #do(call: string, error: Error | undefined): void {
    this.calls.push(error ? `${call}: failed` : call)
    if (error) throw error
  }

  /** A round that finds this to take; what was called in it. */
  async round(now: number, take?: Pending): Promise<string[]> {
    if (take) this.taken.push(take)
    this.calls.length = 0
    await this.confirmer.round(now)
    return [...this.calls]
  }
}

const show = (heads: ReadonlyMap<string, Head>) => [...heads].map(([key, { event }]) => `${key}=${event}`).join(',')

describe('a round of confirming', () => {
  it('waits for durability, then saves, then confirms: exactly what was taken', async () => {
    const stage = new Stage('fsync', 5n)
    expect(stage.confirmer.confirmed).toBe(5n)
    expect(await stage.round(0, pending(200, { orders: 1, bills: 2 }))).toEqual([
      'reach fsync orders=e1,bills=e2',
      'save 200 orders=e1,bills=e2',
      'confirm 200',
    ])
    expect(stage.confirmer).toMatchObject({ confirmed: 200n, settled: true, level: 'fsync' })
  })

  it('does nothing where nothing moved', async () => {
    const stage = new Stage('auto')
    expect(await stage.round(0)).toEqual([])
    expect(stage.confirmer).toMatchObject({ settled: true, level: undefined })
  })

  it('neither saves nor confirms when durability is not reached, and tries again with what moved since', async () => {
    const stage = new Stage('replicated')
    stage.barrier = unmet
    expect(await stage.round(0, pending(200, { orders: 1, bills: 1 }))).toEqual([
      'reach replicated orders=e1,bills=e1: failed',
    ])
    expect(stage.problem).toBe('Expected a replica of Redis, found none.')
    expect(stage.confirmer).toMatchObject({ confirmed: 0n, settled: false })
    await stage.round(1_000, pending(300, { orders: 2 }))
    stage.barrier = () => undefined
    expect(await stage.round(2_000, pending(400, { refunds: 1 }))).toEqual([
      'reach replicated orders=e2,bills=e1,refunds=e1',
      'save 400 orders=e2,bills=e1,refunds=e1',
      'confirm 400',
    ])
    expect(stage.problem).toBeUndefined()
    expect(stage.confirmer).toMatchObject({ confirmed: 400n, settled: true })
  })

  it('tries again also when nothing more moves', async () => {
    const stage = new Stage('fsync')
    stage.barrier = lost
    await stage.round(0, pending(200, { orders: 1 }))
    stage.barrier = () => undefined
    expect(await stage.round(1_000)).toEqual(['reach fsync orders=e1', 'save 200 orders=e1', 'confirm 200'])
  })

  it('asks Redis nothing where nothing was published since the last barrier: there is nothing to prove', async () => {
    for (const level of ['auto', ...LEVELS] as const) {
      const stage = new Stage(level)
      stage.trial = lost
      stage.barrier = lost
      expect(await stage.round(0, pending(200, {}))).toEqual(['save 200 ', 'confirm 200'])
      expect(stage.confirmer).toMatchObject({ confirmed: 200n, settled: true })
    }
  })

  it('keeps what nothing was published in behind what is not proven yet', async () => {
    const stage = new Stage('fsync')
    stage.barrier = lost
    expect(await stage.round(0, pending(200, { orders: 1 }))).toEqual(['reach fsync orders=e1: failed'])
    expect(await stage.round(1_000, pending(300, {}))).toEqual(['reach fsync orders=e1: failed'])
    expect(stage.confirmed).toEqual([])
    stage.barrier = () => undefined
    expect(await stage.round(2_000)).toEqual(['reach fsync orders=e1', 'save 300 orders=e1', 'confirm 300'])
  })

  it('rejects when saving failed, with nothing confirmed', async () => {
    const stage = new Stage('fsync', 5n)
    stage.saving = () => new Error('terminating connection')
    await expect(stage.round(0, pending(200))).rejects.toThrow('terminating connection')
    expect(stage.confirmed).toEqual([])
    expect(stage.confirmer.confirmed).toBe(5n)
  })
})

describe('at level memory', () => {
  it('what was taken waits five seconds, so that an ordinary failover replays it', async () => {
    const stage = new Stage('memory')
    expect(await stage.round(0, pending(200, { orders: 1 }))).toEqual([])
    expect(await stage.round(1_000, pending(300, { orders: 2 }))).toEqual([])
    expect(await stage.round(MEMORY_DELAY - 1)).toEqual([])
    expect(stage.confirmer.settled).toBe(false)
    expect(await stage.round(MEMORY_DELAY)).toEqual(['reach memory orders=e1', 'save 200 orders=e1', 'confirm 200'])
    expect(await stage.round(MEMORY_DELAY + 1_000)).toEqual([
      'reach memory orders=e2',
      'save 300 orders=e2',
      'confirm 300',
    ])
  })

  it('what has waited already does not wait again when the barrier failed', async () => {
    const stage = new Stage('memory')
    await stage.round(0, pending(200, { orders: 1 }))
    stage.barrier = lost
    await stage.round(5_000, pending(300, { orders: 2 }))
    stage.barrier = () => undefined
    expect(await stage.round(5_100)).toEqual(['reach memory orders=e1', 'save 200 orders=e1', 'confirm 200'])
    expect(stage.confirmer.settled).toBe(false)
  })
})

describe('level auto', () => {
  it.each([
    ['fsync+replicated', ['fsync+replicated']],
    ['replicated', ['fsync+replicated', 'replicated']],
    ['fsync', ['fsync+replicated', 'replicated', 'fsync']],
    ['memory', ['fsync+replicated', 'replicated', 'fsync', 'memory']],
  ] as const)('is %s where that is the strongest that a trial shows', async (works, tried) => {
    const stage = new Stage('auto')
    stage.trial = (level) => (LEVELS.indexOf(level) < LEVELS.indexOf(works) ? unmet() : undefined)
    const calls = await stage.round(0, pending(200))
    expect(calls.filter((call) => call.startsWith('try')).map((call) => call.split(/[ :]/)[1])).toEqual(tried)
    expect(stage.levels).toEqual([works])
    expect(stage.confirmer.level).toBe(works)
  })

  it('rules a level out when Redis does not know its command', async () => {
    const stage = new Stage('auto')
    stage.trial = (level) =>
      level.includes('fsync') ? refused("ERR unknown command 'WAITAOF'") : level === 'replicated' ? unmet() : undefined
    await stage.round(0, pending(200))
    expect(stage.confirmer.level).toBe('memory')
  })

  it('tries once, not in each round', async () => {
    const stage = new Stage('auto')
    await stage.round(0, pending(200))
    expect(await stage.round(1_000, pending(300))).toEqual([
      'reach fsync+replicated orders=e1',
      'save 300 orders=e1',
      'confirm 300',
    ])
  })

  it('takes a connection that was lost during a trial for nothing but that', async () => {
    const stage = new Stage('auto')
    stage.trial = lost
    expect(await stage.round(0, pending(200, { orders: 1 }))).toEqual(['try fsync+replicated: failed'])
    expect(stage.problem).toBe('Connection is closed.')
    expect(stage.confirmer).toMatchObject({ level: undefined, settled: false, confirmed: 0n })
    stage.trial = () => undefined
    expect(await stage.round(1_000)).toContain('confirm 200')
    expect(stage.levels).toEqual(['fsync+replicated'])
  })

  it('chooses nothing while Redis refuses every trial: that it is full says nothing about its disk', async () => {
    const stage = new Stage('auto')
    stage.trial = () => refused("OOM command not allowed when used memory > 'maxmemory'.")
    await stage.round(0, pending(200))
    expect(stage.problem).toMatch(/^OOM/)
    expect(stage.confirmer).toMatchObject({ level: undefined, settled: false, confirmed: 0n })
    stage.trial = () => undefined
    await stage.round(1_000)
    expect(stage.confirmer).toMatchObject({ level: 'fsync+replicated', confirmed: 200n })
  })

  it('is lowered when a level was not met for thirty seconds, not before', async () => {
    const stage = new Stage('auto')
    await stage.round(0, pending(100))
    const gone = (level: Level) => (level.includes('replicated') ? unmet() : undefined)
    stage.barrier = gone
    stage.trial = gone
    for (let now = 1_000; now <= 30_000; now += 1_000) await stage.round(now, pending(100 + now))
    expect(stage.levels).toEqual(['fsync+replicated'])
    expect(stage.confirmed).toEqual([100n])
    await stage.round(1_000 + LOWER_AFTER, pending(50_000))
    expect(stage.confirmed).toEqual([100n])
    expect(await stage.round(2_000 + LOWER_AFTER)).toContain('confirm 50000')
    expect(stage.levels).toEqual(['fsync+replicated', 'fsync'])
  })

  it('counts the thirty seconds again whenever the level was met', async () => {
    const stage = new Stage('auto')
    for (let now = 0; now <= 120_000; now += 1_000) {
      stage.barrier = now % 20_000 === 0 ? () => undefined : unmet
      await stage.round(now, pending(1 + now))
    }
    expect(stage.levels).toEqual(['fsync+replicated'])
  })

  it('keeps its level where another trial shows it to work again', async () => {
    const stage = new Stage('auto')
    stage.barrier = lost
    for (let now = 0; now <= LOWER_AFTER; now += 1_000) await stage.round(now, pending(1 + now))
    stage.barrier = () => undefined
    expect(await stage.round(LOWER_AFTER + 1_000)).toContain(`confirm ${1 + LOWER_AFTER}`)
    expect(stage.confirmer.level).toBe('fsync+replicated')
  })

  it('is lowered where its trial succeeds and it is not met, as on a primary of a cluster that has lost its replica', async () => {
    const stage = new Stage('auto')
    stage.barrier = (level) => (level.includes('replicated') ? unmet() : undefined)
    await stage.round(0, pending(100))
    for (let now = 1_000; now <= 3 * LOWER_AFTER; now += 1_000) await stage.round(now)
    expect(stage.levels).toEqual(['fsync+replicated', 'replicated', 'fsync'])
    expect(stage.confirmed).toEqual([100n])
    stage.barrier = () => undefined
    await stage.round(3 * LOWER_AFTER + RAISE_EVERY, pending(200))
    expect(stage.levels.at(-1)).toBe('fsync+replicated')
    expect(stage.confirmed).toEqual([100n, 200n])
  })

  it('lets what was taken shortly before it was lowered to memory wait as long as memory requires', async () => {
    const stage = new Stage('auto')
    stage.trial = (level) => (level === 'fsync+replicated' ? undefined : unmet())
    stage.barrier = unmet
    for (let now = 0; now <= LOWER_AFTER; now += 1_000) await stage.round(now, pending(1 + now))
    stage.trial = (level) => (level === 'memory' ? undefined : unmet())
    stage.barrier = () => undefined
    await stage.round(LOWER_AFTER + 1_000)
    expect(stage.confirmer.level).toBe('memory')
    expect(stage.confirmed).toEqual([])
    await stage.round(LOWER_AFTER + MEMORY_DELAY)
    expect(stage.confirmed).toEqual([BigInt(1 + LOWER_AFTER)])
  })
})

describe('a level that was asked for', () => {
  it.each(LEVELS)(
    '%s is taken at its word, without a trial, and never lowered: confirming blocks, visibly',
    async (level) => {
      const stage = new Stage(level)
      stage.barrier = unmet
      for (let now = 0; now <= 600_000; now += 5_000) {
        const calls = await stage.round(now, pending(1 + now))
        expect(calls.filter((call) => !call.startsWith(`reach ${level} `))).toEqual([])
      }
      expect(stage.confirmed).toEqual([])
      expect(stage.levels).toEqual([level])
      expect(stage.problem).toBe('Expected a replica of Redis, found none.')
      stage.barrier = () => undefined
      await stage.round(605_000)
      expect(stage.confirmer).toMatchObject({ confirmed: 600_001n, settled: true })
    },
  )
})

describe('auto, when a stronger level comes within reach', () => {
  const weakly = async () => {
    const stage = new Stage('auto')
    stage.trial = (level) => (level === 'memory' ? undefined : unmet())
    await stage.round(0, pending(1))
    expect(stage.confirmer.level).toBe('memory')
    return stage
  }

  it('raises its level, and does not ask before its time', async () => {
    const stage = await weakly()
    stage.trial = (level) => (level === 'fsync+replicated' ? unmet() : undefined)
    expect(await stage.round(RAISE_EVERY - 1, pending(2))).not.toContain('try replicated')
    expect(stage.confirmer.level).toBe('memory')
    expect(await stage.round(RAISE_EVERY, pending(3))).toEqual([
      'try fsync+replicated: failed',
      'try replicated',
      'reach replicated orders=e1',
      'save 3 orders=e1',
      'confirm 3',
    ])
    expect(stage.levels).toEqual(['memory', 'replicated'])
    stage.trial = () => undefined
    expect(await stage.round(2 * RAISE_EVERY - 1, pending(4))).not.toContain('try fsync+replicated')
    await stage.round(2 * RAISE_EVERY, pending(5))
    expect(stage.levels).toEqual(['memory', 'replicated', 'fsync+replicated'])
    expect(await stage.round(9 * RAISE_EVERY, pending(6))).not.toContain('try fsync+replicated')
  })

  it('asks again in the next round where the connection was lost, and says a level only once', async () => {
    const stage = await weakly()
    stage.trial = lost
    expect(await stage.round(RAISE_EVERY, pending(2))).toEqual(['try fsync+replicated: failed'])
    expect(stage.problem).toBe('Connection is closed.')
    stage.trial = (level) => (level === 'memory' ? undefined : unmet())
    expect(await stage.round(RAISE_EVERY + 1)).toContain('confirm 1')
    expect(stage.levels).toEqual(['memory'])
  })
})

describe('whatever fails, and whenever', () => {
  const fault = fc.constantFrom(undefined, undefined, unmet, lost, () => refused('READONLY'))
  const heads = fc.dictionary(fc.constantFrom('a', 'b', 'c'), fc.constant(0), { noNullPrototype: true })
  const step = fc.record({
    after: fc.integer({ min: 1, max: 12_000 }),
    moved: fc.option(fc.record({ bytes: fc.integer({ min: 1, max: 50 }), heads })),
    // The strongest level that a trial shows to work, or what every trial meets.
    trial: fc.oneof(
      fc.constantFrom(...LEVELS),
      fc.constantFrom(lost, () => refused('READONLY')),
    ),
    barrier: fault,
  })
  const configured = fc.constantFrom<Level | 'auto'>('auto', 'auto', ...LEVELS)

  it('confirmed only rises, is durable and saved before, with the newest heads, and all is confirmed in the end', async () => {
    await fc.assert(
      fc.asyncProperty(configured, fc.array(step, { maxLength: 30, size: 'max' }), async (level, steps) => {
        const stage = new Stage(level)
        const taken: (Pending & { at: number })[] = []
        let now = 0
        let lsn = 100
        const round = async (take?: Pending) => {
          if (take) taken.push({ ...take, at: now })
          const before = stage.confirmer.confirmed
          const calls = await stage.round(now, take)
          const { confirmed } = stage.confirmer
          if (!calls.some((call) => call.startsWith('confirm'))) {
            expect(confirmed).toBe(before)
            expect(calls.filter((call) => call.startsWith('save'))).toEqual([])
            return
          }
          const news = taken.filter((each) => each.lsn > before && each.lsn <= confirmed)
          const newest = new Map(news.flatMap((each) => [...each.heads]))
          expect(confirmed > before).toBe(true)
          expect(stage.saved.at(-1)).toEqual({ lsn: confirmed, heads: newest })
          const last = calls.findLastIndex((call) => call.startsWith('confirm'))
          expect(calls[last - 1]).toMatch(new RegExp(`^save ${confirmed} `))
          expect(calls[last]).toBe(`confirm ${confirmed}`)
          if (newest.size === 0) {
            // Nothing was published: Redis was not asked.
            expect(last).toBe(1)
            return
          }
          expect(calls[last - 2]).toMatch(new RegExp(`^reach ${stage.confirmer.level?.replace('+', '\\+')} [^:]*$`))
          expect(taken.map((each) => each.lsn)).toContain(confirmed)
          if (level !== 'auto') expect(stage.reached.every((each) => each === level)).toBe(true)
          if (stage.confirmer.level === 'memory') {
            for (const each of news.filter(({ heads }) => heads.size > 0))
              expect(now - each.at).toBeGreaterThanOrEqual(MEMORY_DELAY)
          }
        }
        for (const { after, moved, trial, barrier } of steps) {
          now += after
          stage.trial = (each) => {
            if (typeof trial === 'function') return trial()
            return LEVELS.indexOf(each) < LEVELS.indexOf(trial) ? unmet() : undefined
          }
          stage.barrier = () => barrier?.()
          if (moved === null) await round()
          else {
            lsn += moved.bytes
            const moving = Object.fromEntries(Object.keys(moved.heads).map((key) => [key, lsn]))
            await round(pending(lsn, moving))
          }
        }
        stage.trial = () => undefined
        stage.barrier = () => undefined
        now += MEMORY_DELAY
        await round()
        expect(stage.confirmer.settled).toBe(true)
        expect(stage.confirmer.confirmed).toBe(taken.at(-1)?.lsn ?? 0n)
      }),
    )
  })
})
