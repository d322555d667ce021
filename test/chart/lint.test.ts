import { beforeAll, expect, test } from 'vitest'
import { BUILD_TIMEOUT, prepare } from '../support/go.js'
import { helm, helmPath } from '../support/helm.js'
import { CHART, VALUES } from './render.js'

beforeAll(() => prepare(helmPath), BUILD_TIMEOUT)

test('there are values for each way to install it', () => {
  expect([...VALUES.keys()].toSorted()).toEqual(['cloudnativepg', 'everything', 'minimal', 'sidecar', 'tls'])
})

test.for([...VALUES])('helm lint --strict has nothing to say about the values "%s"', async ([_name, file], context) => {
  const { code, out, err } = await (await helm(context)).try('lint', '--strict', CHART, '--values', file)
  expect({ code, err }, out).toEqual({ code: 0, err: '' })
  expect(out).toContain('1 chart(s) linted, 0 chart(s) failed')
  expect(out).not.toMatch(/\[(WARNING|ERROR)\]/)
})
