import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { judgeAudit } from '../../scripts/audit.js'
import { findProblems, isAllowed, type Lock, licenceIn } from '../../scripts/licences.js'

const root = new URL('../../', import.meta.url)
const lockOf = (packages: Lock['packages']): Lock => ({ packages: { '': {}, ...packages } })
const unknown = () => undefined

describe('licences', () => {
  test('every package that is locked is under one that is allowed, and none in production runs a script', () => {
    const lock = JSON.parse(readFileSync(new URL('package-lock.json', root), 'utf8')) as Lock
    expect(findProblems(lock, (path) => licenceIn(fileURLToPath(new URL(path, root))))).toEqual([])
  })

  test.each([
    ['MIT', true],
    ['GPL-3.0-only', false],
    ['(MIT OR GPL-3.0-only)', true],
    ['GPL-3.0-only OR MIT', true],
    ['MIT AND ISC', true],
    ['MIT AND GPL-3.0-only', false],
    ['GPL-3.0-only AND MIT OR ISC', true],
    ['GPL-3.0-only AND (MIT OR ISC)', false],
    ['(MIT', false],
    ['MIT ISC', false],
    ['GPL-2.0-only WITH Classpath-exception-2.0', false],
    ['SEE LICENSE IN LICENSE', false],
    ['UNLICENSED', false],
    ['', false],
  ])('%s: %s', (expression, allowed) => {
    expect(isAllowed(expression, ['MIT', 'ISC'])).toBe(allowed)
  })

  test('one that is not allowed is named with its package and what to do', () => {
    const [problem, ...more] = findProblems(
      lockOf({ 'node_modules/a/node_modules/@x/b': { version: '1.2.3', license: 'AGPL-3.0-only' } }),
      unknown,
    )
    expect(problem).toMatch(
      /^@x\/b@1\.2\.3 is under AGPL-3\.0-only, expected .*MIT.* in production\. Find another package, or /,
    )
    expect(more).toEqual([])
  })

  test('weak copyleft is allowed to tools, and not to what is shipped', () => {
    const lock = (dev: boolean) => lockOf({ 'node_modules/a': { version: '1.0.0', license: 'MPL-2.0', dev } })
    expect(findProblems(lock(true), unknown)).toEqual([])
    expect(findProblems(lock(false), unknown)).toHaveLength(1)
  })

  test('one that the lockfile leaves out is looked for in the package, and must be somewhere', () => {
    const lock = lockOf({ 'node_modules/a': { version: '1.0.0' } })
    expect(findProblems(lock, unknown)).toEqual([expect.stringContaining('a@1.0.0 names no licence.')])
    expect(findProblems(lock, (path) => (path === 'node_modules/a' ? 'MIT' : undefined))).toEqual([])
  })

  test('a script that runs on installing is refused in production alone', () => {
    const lock = (dev: boolean) =>
      lockOf({ 'node_modules/a': { version: '1.0.0', license: 'MIT', hasInstallScript: true, dev } })
    expect(findProblems(lock(true), unknown)).toEqual([])
    expect(findProblems(lock(false), unknown)).toEqual([
      expect.stringContaining('a@1.0.0 runs a script when it is installed'),
    ])
  })
})

describe('the audit', () => {
  const report = (severity: string) =>
    JSON.stringify({ vulnerabilities: { a: { name: 'a', severity, range: '<2', fixAvailable: true } } })

  test.each([
    ['nothing found', '{"vulnerabilities": {}}', 0, /^No weakness/],
    ['a moderate one', report('moderate'), 0, /^No weakness/],
    ['a high one', report('high'), 1, /^high: a <2\. npm audit fix$/],
    ['a critical one', report('critical'), 1, /^critical: a/],
    ['a registry without a list', '{"statusCode": 405, "message": "405 Method Not Allowed"}', 0, /^SKIPPED: .*405/],
    ['a registry that fails', '{"statusCode": 503, "message": "Service Unavailable"}', 0, /^SKIPPED: .*503/],
    ['no network', '{"message": "getaddrinfo ENOTFOUND", "error": {"summary": "x"}}', 0, /^SKIPPED: .*getaddrinfo/],
    [
      'no lockfile',
      '{"error": {"code": "ENOLOCK", "summary": "needs a lockfile"}}',
      1,
      /^npm audit .*needs a lockfile/,
    ],
    ['no JSON', 'oops', 1, /found: oops/],
  ])('%s', (_, output, code, text) => {
    expect(judgeAudit(output)).toEqual({ code, text: expect.stringMatching(text) })
  })
})
