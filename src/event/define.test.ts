import * as v from 'valibot'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { defineEvent } from './define.js'
import { EventError } from './error.js'

const valid = { stream: 'orders', type: 'order.placed', version: 1, data: z.object({ total: z.number() }) }

const refusal = (options: object): EventError => {
  try {
    defineEvent({ ...valid, ...options } as typeof valid)
  } catch (error) {
    if (error instanceof EventError) return error
  }
  throw new Error('Expected an EventError')
}

describe('defineEvent', () => {
  it('keeps what it is given, and cannot be changed afterwards', () => {
    const event = defineEvent(valid)
    expect(event).toEqual({ ...valid, maxBytes: 1_048_576 })
    expect(Object.isFrozen(event)).toBe(true)
  })

  it('takes the schemas of any library, and sizes as people write them', () => {
    const event = defineEvent({ ...valid, data: v.object({ total: v.number() }), maxBytes: '64KiB' })
    expect(event.maxBytes).toBe(65_536)
    expect(defineEvent({ ...valid, maxBytes: 100 }).maxBytes).toBe(100)
  })

  it.each([
    [{ stream: 'orders:1' }, 'stream: Expected a letter or digit, then letters', 'found "orders:1"'],
    [{ stream: 'outrider.orders' }, 'not beginning with "outrider"', 'found "outrider.orders"'],
    [{ stream: 'o'.repeat(201) }, '200 at most', 'found "oooo'],
    [{ stream: undefined }, 'stream: Expected', 'found undefined'],
    [{ type: '' }, 'type: Expected 1 to 255 characters', 'found 0'],
    [{ type: '€'.repeat(256) }, 'type: Expected 1 to 255 characters', 'found 256'],
    [{ type: 'a\0b' }, 'type: Expected text that Postgres can store', 'found a NUL'],
    [{ version: 0 }, 'version: Expected a whole number from 1 to 2147483647', 'found 0'],
    [{ version: 1.5 }, 'version: Expected a whole number', 'found 1.5'],
    [{ version: 2 ** 31 }, 'version: Expected a whole number', 'found 2147483648'],
    [{ data: { parse: () => {} } }, 'data: Expected a Standard Schema', 'found object'],
    [{ maxBytes: '1 parsec' }, 'maxBytes: Expected a whole number of bytes from 1', 'found "1 parsec"'],
    [{ maxBytes: 0 }, 'maxBytes: Expected', 'found 0'],
  ])('refuses %j and says what it expected and found', (options, expected, found) => {
    const { message } = refusal(options)
    expect(message).toContain(expected)
    expect(message).toContain(found)
    expect(message).toContain('Correct the call of defineEvent.')
  })

  it('counts characters as Postgres does: an emoji is one', () => {
    expect(defineEvent({ ...valid, type: '🐎'.repeat(255) }).type).toHaveLength(510)
  })

  it('names everything that is wrong at once', () => {
    expect(refusal({ stream: '', type: '', version: -1 }).issues.map((issue) => issue.path)).toEqual([
      ['stream'],
      ['type'],
      ['version'],
    ])
  })
})
