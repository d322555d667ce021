import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseRedisUrl } from './redis-url.js'

const node = (host: string, port: number) => ({ host, port })

describe('a Redis URL', () => {
  it.each([
    ['redis://r', { mode: 'standalone', nodes: [node('r', 6379)], db: 0, tls: false }],
    ['rediss://r:6380/', { mode: 'standalone', nodes: [node('r', 6380)], db: 0, tls: true }],
    ['redis://:p%40ss@r/3', { mode: 'standalone', nodes: [node('r', 6379)], db: 3, tls: false, password: 'p@ss' }],
    [
      'redis://me:pw@[::1]:7000',
      { mode: 'standalone', nodes: [node('::1', 7000)], db: 0, tls: false, username: 'me', password: 'pw' },
    ],
    [
      'redis+sentinel://me:pw@a:26379/main?node=b:26380&node=[fe80::1]:26381',
      {
        mode: 'sentinel',
        nodes: [node('a', 26379), node('b', 26380), node('fe80::1', 26381)],
        name: 'main',
        db: 0,
        tls: false,
        username: 'me',
        password: 'pw',
      },
    ],
    ['rediss+sentinel://a/main/2', { mode: 'sentinel', nodes: [node('a', 26379)], name: 'main', db: 2, tls: true }],
    ['redis+cluster://a?node=b', { mode: 'cluster', nodes: [node('a', 6379), node('b', 6379)], db: 0, tls: false }],
    ['rediss+cluster://a:7000/0', { mode: 'cluster', nodes: [node('a', 7000)], db: 0, tls: true }],
  ])('%s', (url, parts) => {
    expect(parseRedisUrl(url)).toEqual(parts)
  })

  it.each([
    ['http://:hunter2@r', 'starts with redis://'],
    ['hunter2', 'starts with redis://'],
    ['redis+unix://:hunter2@r', 'starts with redis://'],
    ['redis://:hunter2@r/x', 'number of the database'],
    ['redis://:hunter2@r/0/1', 'number of the database'],
    ['redis://:hunter2@', 'host'],
    ['redis://:hunter2@r:0', 'ports from 1'],
    ['redis://:hunter2@r?tls=true', 'without parameters'],
    ['redis://:hunter2@r?node=b', 'without parameters'],
    ['redis://:hunter2@r#x', 'without #'],
    ['redis+sentinel://:hunter2@a', "master's name"],
    ['redis+sentinel://:hunter2@a/main/0/1', "master's name"],
    ['redis+sentinel://:hunter2@a/main?nodes=b', 'node=host:port'],
    ['redis+sentinel://:hunter2@a/main?node=b:x', 'host:port'],
    ['redis+cluster://:hunter2@a/1', 'only database 0'],
    ['redis://:hunter2%zz@r', 'hexadecimal'],
  ])('%s is refused, and not repeated', (url, expected) => {
    expect(() => parseRedisUrl(url)).toThrow(expected)
    expect(() => parseRedisUrl(url)).not.toThrow('hunter')
    expect(() => parseRedisUrl(url)).toThrow(TypeError)
  })

  it('gives back whatever password was percent-encoded into it', () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1, unit: 'grapheme' }), (password) => {
        expect(parseRedisUrl(`redis://:${encodeURIComponent(password)}@r`).password).toBe(password)
      }),
    )
  })
})
