import { expect, test } from 'vitest'
import { until } from '../../testkit/services/index.js'
import type { Ended } from '../support/helm.js'
import type { KubernetesObject } from '../support/kubernetes-client.js'
import { Installation } from './installation.js'
import { useKubernetesEnv } from './kubernetes-env.js'

const envOf = useKubernetesEnv()

interface Deployment extends KubernetesObject {
  spec: { template: { metadata: { annotations: Record<string, string> } } }
}

/** It went well, and the API server had nothing to warn of, such as of Pod Security. */
function expectDone({ code, err, out }: Ended): void {
  expect({ code, err }, out).toEqual({ code: 0, err: '' })
}

/** The kinds and names of what an install leaves in the namespace, Helm's own records and the cluster's things apart. */
async function objectsOf(one: Installation): Promise<string[]> {
  const kinds = ['/api/v1/configmaps', '/api/v1/services', '/api/v1/serviceaccounts', '/apis/apps/v1/deployments']
  const more = ['/apis/policy/v1/poddisruptionbudgets', '/apis/batch/v1/jobs', '/api/v1/pods']
  const found = [...kinds, ...more].map(async (path) => {
    const [, api = '', resource = ''] = /^(.*)\/(.*)$/.exec(path)!
    return (await one.list(api, resource)).map(({ metadata }) => `${resource}/${metadata.name}`)
  })
  return (await Promise.all(found)).flat().filter((name) => !['serviceaccounts/default'].includes(name))
}

test('an install into a restricted namespace sets the database up, and events flow', async (context) => {
  const one = await Installation.prepare(context, await envOf(context))
  const installed = await one.install()
  expectDone(installed)
  expect(await one.relays()).toHaveLength(2)
  expect(await one.slots()).toBe(1)
  await one.sendEvent()
  // The hook has succeeded and is gone, with its pod and its ConfigMap.
  await until(async () => (await one.list('/api/v1', 'pods')).length === 2)
  expect((await objectsOf(one)).map((name) => name.replace(/(pods\/outrider)-.*/, '$1')).sort()).toEqual([
    'configmaps/outrider',
    'deployments/outrider',
    'poddisruptionbudgets/outrider',
    'pods/outrider',
    'pods/outrider',
    'serviceaccounts/outrider',
    'services/outrider',
  ])
  expectDone(await one.run('test'))
  expect(one.logs('outrider-test')).toContain('ping')
})

test('an upgrade that changes the configuration rolls the pods and sets up again; a rollback rolls them back', async (context) => {
  const one = await Installation.prepare(context, await envOf(context))
  const deployment = () => one.get<Deployment>('/apis/apps/v1', 'deployments/outrider')
  const checksum = async () => (await deployment()).spec.template.metadata.annotations['checksum/config']
  expectDone(await one.install())
  const first = { pods: await one.relays(), checksum: await checksum() }
  expect(one.logs('outrider-setup')).toContain('created  slot')

  expectDone(await one.upgrade())
  expect({ pods: await one.relays(), checksum: await checksum() }).toEqual(first)
  expect(one.logs('outrider-setup')).toContain('present  slot')

  expectDone(await one.upgrade('config.logLevel=debug'))
  expect(await checksum()).not.toBe(first.checksum)
  const second = await one.relays()
  expect(second.filter((name) => first.pods.includes(name))).toEqual([])
  await one.sendEvent()

  expectDone(await one.run('rollback', '2', '--wait', '--timeout', '50s'))
  expect(await checksum()).toBe(first.checksum)
  expect((await one.relays()).filter((name) => second.includes(name))).toEqual([])
  await one.sendEvent()
  expect(await one.slots()).toBe(1)
})

test('the test of a release fails while no relay runs, and says so', async (context) => {
  const one = await Installation.prepare(context, await envOf(context))
  expectDone(await one.install('test.wait=1s'))
  await one.scale(0)
  const { code, err } = await one.run('test')
  expect({ code, err }).toEqual({ code: 1, err: expect.stringContaining('outrider-test failed') })
  expect(one.logs('outrider-test')).toContain('Start `outrider relay`')
})

test('an uninstall leaves the slot, which its notes have said before', async (context) => {
  const one = await Installation.prepare(context, await envOf(context))
  const installed = await one.install()
  expectDone(installed)
  expect(installed.out).toContain('the slot stays in Postgres, and without a relay it holds back WAL')
  expectDone(await one.run('uninstall', '--wait'))
  await until(async () => (await objectsOf(one)).length === 0)
  expect(await one.slots()).toBe(1)
})

test('an uninstall right after teardown.enabled was set drops the slot', async (context) => {
  const one = await Installation.prepare(context, await envOf(context))
  expectDone(await one.install())
  const upgraded = await one.upgrade('teardown.enabled=true')
  expectDone(upgraded)
  expect(upgraded.out).toContain('`helm uninstall` drops the slot and the publication')
  expectDone(await one.run('uninstall', '--wait', '--timeout', '120s'))
  expect(await one.slots()).toBe(0)
  await until(async () => (await objectsOf(one)).length === 0)
})

test('an install that fails and is uninstalled, as --atomic does, leaves the slot that was there before, whatever teardown.enabled says', async (context) => {
  const one = await Installation.prepare(context, await envOf(context))
  expectDone(await one.install())
  expectDone(await one.run('uninstall', '--no-hooks', '--wait', '--timeout', '60s'))
  expect(await one.slots()).toBe(1)
  const { postgres } = one.env
  await postgres.set({ max_slot_wal_keep_size: '-1' })
  context.onTestFinished(() => postgres.set({ max_slot_wal_keep_size: null }))
  const { code } = await one.install('teardown.enabled=true')
  expect(code).toBe(1)
  expectDone(await one.run('uninstall', '--wait', '--timeout', '60s'))
  expect(await one.slots()).toBe(1)
})

test('setup as a plain Job next to the relays, which wait for it', async (context) => {
  const one = await Installation.prepare(context, await envOf(context))
  expectDone(await one.install('setup.hook=false'))
  await one.sendEvent()
  expectDone(await one.upgrade('setup.hook=false', 'config.logLevel=debug'))
  await one.sendEvent()
})

test('a blocker stops the install before anything is there, and its log says what to fix', async (context) => {
  const one = await Installation.prepare(context, await envOf(context))
  const { postgres } = one.env
  await postgres.set({ max_slot_wal_keep_size: '-1' })
  context.onTestFinished(() => postgres.set({ max_slot_wal_keep_size: null }))
  const { code, err } = await one.install()
  expect({ code, err }).toEqual({ code: 1, err: expect.stringContaining('pre-install') })
  expect(one.logs('outrider-setup')).toContain('max_slot_wal_keep_size')
  expect((await objectsOf(one)).filter((name) => !/outrider-setup/.test(name))).toEqual([])
  expect(await one.slots()).toBe(0)

  // Helm keeps the failed try as a release of its own, which an upgrade goes on from.
  const allowed = await one.upgrade('setup.check.allowUnboundedWal=true')
  expectDone(allowed)
  expect(allowed.out).toContain('allowUnboundedWal is set')
  await one.sendEvent()
})
