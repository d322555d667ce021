import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { TransactionTracker } from './transaction-tracker.js'

/** The same, naively: every transaction is kept, and looked at each time. */
class Model {
  readonly transactions: { waiting: number; end: bigint | undefined }[] = []

  get confirmable(): bigint {
    let end = 0n
    for (const each of this.transactions) {
      if (each.waiting > 0 || each.end === undefined) break
      end = each.end
    }
    return end
  }

  get open(): boolean {
    return this.transactions.some(({ end }) => end === undefined)
  }

  get unfinished(): number[] {
    return this.transactions.flatMap(({ waiting }, i) => (waiting > 0 ? [i] : []))
  }
}

type Step = { do: 'begin' | 'row' | 'commit' | 'reached' } | { do: 'done'; which: number; count: number }

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ do: fc.constant('begin' as const) }) },
  { weight: 6, arbitrary: fc.record({ do: fc.constant('row' as const) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('commit' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('reached' as const) }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('done' as const), which: fc.nat(), count: fc.nat() }) },
)

/** Does the step with both, where it makes sense. LSNs rise, as they do in the order of commits. */
function take(progress: TransactionTracker, model: Model, each: Step, lsn: bigint): void {
  switch (each.do) {
    case 'begin':
      if (model.open) return
      progress.begin()
      model.transactions.push({ waiting: 0, end: undefined })
      return
    case 'row':
      if (!model.open) return
      progress.row()
      model.transactions.at(-1)!.waiting += 1
      return
    case 'commit':
      if (!model.open) return
      progress.commit(lsn)
      model.transactions.at(-1)!.end = lsn
      return
    case 'reached':
      if (model.open) return
      progress.reached(lsn)
      model.transactions.push({ waiting: 0, end: lsn })
      return
    case 'done': {
      const { unfinished } = model
      if (unfinished.length === 0) return
      const transaction = unfinished[each.which % unfinished.length]!
      const of = model.transactions[transaction]!
      const count = 1 + (each.count % of.waiting)
      progress.done(transaction, count)
      of.waiting -= count
    }
  }
}

describe('what may be confirmed', () => {
  it('is the end of the last transaction up to which all is done, under any interleaving', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200, size: 'max' }), (steps) => {
        const progress = new TransactionTracker()
        const model = new Model()
        const seen = steps.map((each, i) => {
          take(progress, model, each, BigInt(100 + i))
          const { confirmable, idle } = progress
          return [
            { confirmable, idle },
            { confirmable: model.confirmable, idle: !model.open && model.unfinished.length === 0 },
          ]
        })
        expect(seen.map(([found]) => found)).toEqual(seen.map(([, expected]) => expected))
        const confirmable = seen.map(([found]) => found!.confirmable)
        expect(confirmable).toEqual(confirmable.toSorted((a, b) => (a < b ? -1 : a > b ? 1 : 0)))
      }),
      { numRuns: 200 },
    )
  })

  it('is nothing before the first transaction, and never what an unfinished one has received', () => {
    const progress = new TransactionTracker()
    expect(progress.confirmable).toBe(0n)
    const transaction = progress.begin()
    expect(transaction).toBe(0)
    progress.row()
    progress.done(transaction, 1)
    expect(progress.confirmable).toBe(0n)
    progress.commit(0x16b374d848n)
    expect(progress.confirmable).toBe(0x16b374d848n)
  })

  it('of two adjacent commits is exactly the end of the first, until the second is done', () => {
    const progress = new TransactionTracker()
    const first = progress.begin()
    progress.row()
    progress.commit(200n)
    const second = progress.begin()
    progress.row()
    progress.commit(300n)
    progress.done(first, 1)
    expect(progress.confirmable).toBe(200n)
    progress.done(second, 1)
    expect(progress.confirmable).toBe(300n)
  })

  it('never falls, though the server names an end before it', () => {
    const progress = new TransactionTracker()
    progress.reached(300n)
    progress.reached(200n)
    expect(progress.confirmable).toBe(300n)
  })

  it('waits for the first of thousands, done in any order: the ring grows with what is on its way', () => {
    fc.assert(
      fc.property(fc.nat({ max: 1500 }), fc.integer({ min: 1025, max: 5000 }), fc.nat(), (before, count, seed) => {
        const progress = new TransactionTracker()
        for (let i = 0; i < before; i++) progress.reached(BigInt(i + 1))
        for (let i = 0; i < count; i++) {
          progress.begin()
          progress.row()
          progress.commit(BigInt(10_000 + i))
        }
        // A walk through all but the first, in steps that have no divisor in common with their number.
        const others = count - 1
        let stride = 1 + (seed % others)
        while (gcd(stride, others) !== 1) stride++
        for (let i = 0, at = 0; i < others; i++, at = (at + stride) % others) progress.done(before + 1 + at, 1)
        expect(progress.confirmable).toBe(BigInt(before))
        progress.done(before, 1)
        expect(progress.confirmable).toBe(BigInt(10_000 + count - 1))
        expect(progress.idle).toBe(true)
      }),
      { numRuns: 20 },
    )
  })
})

describe('progress that makes no sense is an error:', () => {
  it('a transaction within another', () => {
    const progress = new TransactionTracker()
    progress.begin()
    expect(() => progress.begin()).toThrow('Expected the open transaction to commit before another begins.')
    expect(() => progress.reached(1n)).toThrow('Expected the open transaction to commit')
  })

  it('a commit of nothing', () => {
    expect(() => new TransactionTracker().commit(1n)).toThrow('Expected a transaction to be open when one commits.')
  })

  it('more rows done than waited', () => {
    const progress = new TransactionTracker()
    const transaction = progress.begin()
    progress.row()
    progress.commit(1n)
    expect(() => progress.done(transaction, 2)).toThrow(`found -1 after 2 were processed`)
  })

  it('a row done in a transaction that is finished, or never began', () => {
    const progress = new TransactionTracker()
    progress.reached(1n)
    expect(() => progress.done(0, 1)).toThrow('Expected rows that wait in transaction 0')
    expect(() => progress.done(7, 1)).toThrow('Expected rows that wait in transaction 7')
    expect(() => progress.done(-1, 0)).toThrow('Expected rows that wait in transaction -1')
  })
})

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b))
