import { describe, expect, it } from 'vitest'
import { JsonText, toJson } from './json.js'

describe('toJson', () => {
  it('is JSON.stringify for all that JSON can carry', () => {
    const value = { text: 'ü€🐎\ud800\0"\\', list: [1, null, -0.5], nested: { at: new Date(0), gone: undefined } }
    expect(toJson(value)).toBe(JSON.stringify(value))
    expect(toJson(null)).toBe('null')
    expect(toJson('null')).toBe('"null"')
  })

  it('tells no payload from the payload null', () => {
    expect(toJson(undefined)).toBeUndefined()
  })

  it.each([
    [{ total: Number.NaN }, 'Expected a finite number in "total", found NaN'],
    [[1, [Number.POSITIVE_INFINITY]], 'Expected a finite number in "0", found Infinity'],
    [Number.NaN, 'Expected a finite number, found NaN'],
    [() => 1, 'Expected a value that JSON can carry, found a function'],
    [Symbol('s'), 'Expected a value that JSON can carry, found a symbol'],
    [{ total: 1n }, 'BigInt'],
  ])('refuses what JSON would lose: %o', (value, message) => {
    expect(() => toJson(value)).toThrow(message)
  })

  it('refuses a circle', () => {
    const circle: Record<string, unknown> = {}
    circle.itself = circle
    expect(() => toJson(circle)).toThrow('circular')
  })
})

describe('JsonText', () => {
  it('is its text to pg and to String(), and its value to JSON.stringify', () => {
    const json = new JsonText('{"a":[1]}')
    expect(json.toPostgres()).toBe('{"a":[1]}')
    expect(String(json)).toBe('{"a":[1]}')
    expect(JSON.stringify(json)).toBe('{"a":[1]}')
  })
})
