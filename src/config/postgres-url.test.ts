import { describe, expect, it } from 'vitest'
import { parsePostgresUrl } from './postgres-url.js'

describe('a Postgres URL', () => {
  it.each([
    ['postgres://db/shop', { host: 'db', port: 5432, database: 'shop', tls: false }],
    [
      'postgresql://me:p%40s%2Fs@db:6543/shop',
      { host: 'db', port: 6543, user: 'me', password: 'p@s/s', database: 'shop', tls: false },
    ],
    ['postgres://[::1]:5433/shop', { host: '::1', port: 5433, database: 'shop', tls: false }],
    ['postgres://me@%2Fvar%2Frun/shop', { host: '/var/run', port: 5432, user: 'me', database: 'shop', tls: false }],
    ['postgres:///shop?host=/var/run', { host: '/var/run', port: 5432, database: 'shop', tls: false }],
    ['postgres://db/my%20shop', { host: 'db', port: 5432, database: 'my shop', tls: false }],
    [
      'postgres://db/shop?options=-c%20search_path%3Dx',
      { host: 'db', port: 5432, database: 'shop', options: '-c search_path=x', tls: false },
    ],
    ['postgres://db/shop?schema=public&connection_limit=5', { host: 'db', port: 5432, database: 'shop', tls: false }],
    [
      'postgres://db/shop?sslmode=disable',
      { host: 'db', port: 5432, database: 'shop', tls: false, sslMode: 'disable' },
    ],
    ['postgres://db/shop?sslmode=require', { host: 'db', port: 5432, database: 'shop', tls: true, sslMode: 'require' }],
    ['postgres://db/shop?ssl=true', { host: 'db', port: 5432, database: 'shop', tls: true }],
    [
      'postgres://db/shop?sslrootcert=/ca.pem',
      { host: 'db', port: 5432, database: 'shop', tls: true, sslRootCert: '/ca.pem' },
    ],
    [
      'postgres://db/shop?sslnegotiation=direct',
      { host: 'db', port: 5432, database: 'shop', tls: true, sslNegotiation: 'direct' },
    ],
  ])('%s', (url, parts) => {
    expect(parsePostgresUrl(url)).toEqual(parts)
  })

  it.each([
    ['mysql://me:hunter2@db/shop', 'starts with postgres://'],
    ['hunter2', 'starts with postgres://'],
    ['postgres://me:hunter2@a,b/shop', 'one host'],
    ['postgres://me:hunter2@a:1,b:2/shop', 'one host'],
    ['postgres://me:hunter#2@db/shop', 'percent-encoded'],
    ['postgres://me:hunter2@db:99999/shop', 'percent-encoded'],
    ['postgres://me:hunter2@db', 'names the database'],
    ['postgres://me:hunter2@/shop', 'host'],
    ['postgres://me:hunter2%zz@db/shop', 'hexadecimal'],
    ['postgres://me:hunter2@db/shop?sslmode=no-verify', 'always checked'],
    ['postgres://me:hunter2@db/shop?sslmode=prefer', 'always checked'],
    ['postgres://me:hunter2@db/shop?sslmode=allow', 'always checked'],
    ['postgres://me:hunter2@db/shop?ssl=no-verify', 'always checked'],
    ['postgres://me:hunter2@db/shop?uselibpqcompat=true&sslmode=require', 'uselibpqcompat'],
    ['postgres://me:hunter2@db/shop?sslmode=disable&sslrootcert=/ca.pem', 'not both'],
    ['postgres://me:hunter2@db/shop?sslnegotiation=maybe', 'sslnegotiation'],
    ['postgres://me:hunter2@db/shop?port=x', 'port'],
  ])('%s is refused, and not repeated', (url, expected) => {
    expect(() => parsePostgresUrl(url)).toThrow(expected)
    expect(() => parsePostgresUrl(url)).not.toThrow('hunter')
    expect(() => parsePostgresUrl(url)).toThrow(TypeError)
  })
})
