import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { beforeAll, describe, expect, test } from 'vitest'
import { readSecret } from '../../src/base/secret.js'
import type { Command } from '../../src/cli/command.js'
import { loadConfig } from '../../src/config/load.js'
import { readTls } from '../../src/config/tls.js'
import { scratch } from '../../testkit/services/folder.js'
import { BUILD_TIMEOUT, prepare } from '../support/go.js'
import { helm, helmPath } from '../support/helm.js'
import { type Container, type Fields, ours, podTemplates } from './pods.js'
import { render, VALUES } from './render.js'
import type { KubernetesObject } from './schemas.js'

beforeAll(() => prepare(helmPath), BUILD_TIMEOUT)

/** What the Secrets hold here, by the name of the file that it becomes. */
const SECRETS: Record<string, string> = {
  url: 'postgres://owner:hunter2@db:5432/shop',
  password: 'hunter2',
  'sentinel-password': 'hunter3',
  'ca.crt': 'a CA',
  'tls.crt': 'a certificate',
  'tls.key': 'a key',
}

/** The environment of a container, with its mounted files in a folder of this machine. */
function environmentOf({ pod, container }: Container, objects: KubernetesObject[]): Record<string, string> {
  const folder = scratch('mounts')
  for (const { name, mountPath } of container.volumeMounts) {
    const files = filesOf(
      pod.spec.volumes.find((volume: Fields) => volume.name === name),
      objects,
      mountPath,
    )
    mkdirSync(join(folder, mountPath), { recursive: true })
    for (const [file, content] of Object.entries(files)) writeFileSync(join(folder, mountPath, file), content)
  }
  return Object.fromEntries(
    container.env.map(({ name, value }: Fields) => [name, value.startsWith('/etc/') ? join(folder, value) : value]),
  )
}

function filesOf({ configMap, secret }: Fields, objects: KubernetesObject[], path: string): Record<string, string> {
  if (secret) {
    return Object.fromEntries(
      secret.items.map(({ path: file }: Fields) => {
        if (SECRETS[file] === undefined) throw new Error(`Expected one of the files known here, found ${file}`)
        return [file, file === 'url' && path.endsWith('/redis') ? 'redis://:hunter2@redis:6379' : SECRETS[file]]
      }),
    )
  }
  return objects.find(({ kind, metadata }) => kind === 'ConfigMap' && metadata.name === configMap.name)?.data ?? {}
}

describe.each([...VALUES])('the values "%s"', (_name, file) => {
  test('give each container a configuration that Outrider takes, with every file that it names', async (context) => {
    const objects = await render(await helm(context), { files: [file] })
    expect(ours(objects).length).toBeGreaterThan(0)
    for (const one of ours(objects)) {
      const env = environmentOf(one, objects)
      for (const [name, value] of Object.entries(env)) {
        if (value.includes('/etc/')) expect(existsSync(value), `${one.container.name}: ${name}`).toBe(true)
      }
      const config = loadConfig({ env })
      for (const { password, tls } of [config.postgres, config.redis]) {
        if (password) expect(await readSecret(password)).toBe('hunter2')
        if (tls) await readTls(tls)
      }
      if (config.redis.sentinelPassword) expect(await readSecret(config.redis.sentinelPassword)).toBe('hunter3')
    }
  })

  test('call Outrider with words that it knows', async (context) => {
    const objects = await render(await helm(context), { files: [file] })
    for (const { container } of ours(objects)) {
      const [name, ...args] = container.args
      const command: Command = (await import(`../../src/cli/${name}.ts`))[name]
      expect(() => parseArgs({ args, options: { ...command.options, yes: { type: 'boolean' } } })).not.toThrow()
    }
  })
})

test('what the values say about connections reaches the configuration', async (context) => {
  const objects = await render(await helm(context), { files: [VALUES.get('tls')!] })
  const relay = ours(objects).find(({ container }) => container.name === 'relay')!
  const { postgres, redis } = loadConfig({ env: environmentOf(relay, objects) })
  expect(postgres).toMatchObject({
    url: 'postgres://shop_relay@db.example.com:5432/shop?sslmode=verify-full',
    tls: {
      ca: expect.stringMatching(/postgres-ca\/ca\.crt$/),
      cert: expect.stringMatching(/postgres-cert\/tls\.crt$/),
      key: expect.stringMatching(/postgres-cert\/tls\.key$/),
    },
  })
  expect(redis).toMatchObject({
    username: 'outrider',
    sentinelUsername: 'sentinel',
    sentinelPassword: { file: expect.stringMatching(/redis\/sentinel-password$/) },
    tls: {
      ca: expect.stringMatching(/redis-ca\/ca\.crt$/),
      cert: expect.stringMatching(/redis-cert\/tls\.crt$/),
      key: expect.stringMatching(/redis-cert\/tls\.key$/),
      serverName: 'redis.example.com',
    },
  })
})

test('the settings under config reach the relay as they are, large numbers too', async (context) => {
  const config = {
    slot: 'other',
    maxEventBytes: 33_554_432,
    limits: { batchEvents: 1_000, inflightBytes: 1_073_741_824 },
    streams: { 'shop.orders': { partitions: 16, retention: '90d', groups: ['billing'] } },
  }
  const objects = await render(await helm(context), { files: [VALUES.get('minimal')!], values: { config } })
  for (const one of ours(objects)) {
    expect(loadConfig({ env: environmentOf(one, objects) })).toMatchObject({
      ...config,
      streams: { 'shop.orders': { retention: 90 * 86_400_000, partitions: 16, groups: ['billing'] } },
    })
  }
})

test('owner and relay each get their own credentials, and the relay never those of the owner', async (context) => {
  const objects = await render(await helm(context), { files: [VALUES.get('everything')!] })
  const secrets = ours(objects).map(({ pod, container }) => {
    const mount = container.volumeMounts.find(({ mountPath }: Fields) => mountPath === '/etc/outrider/postgres')
    const volume = pod.spec.volumes.find(({ name }: Fields) => name === mount.name)
    return [container.name, volume.secret.secretName]
  })
  expect(Object.fromEntries(secrets)).toEqual({
    relay: 'shop-relay',
    check: 'shop-relay',
    setup: 'shop-owner',
    ping: 'shop-app',
    teardown: 'shop-owner',
  })
  const deployment = podTemplates(objects).find(({ name }) => name.startsWith('Deployment'))
  expect(JSON.stringify(deployment)).not.toContain('owner@')
  expect(JSON.stringify(deployment)).not.toContain('shop-owner')
})

test('with a Cluster of CloudNativePG relay and check have a role of their own, setup and ping that of the owner', async (context) => {
  const objects = await render(await helm(context), { files: [VALUES.get('cloudnativepg')!] })
  const mounted = ours(objects).map(({ pod, container }) => {
    const secrets = container.volumeMounts.flatMap(({ name, mountPath }: Fields) => {
      const { secret } = pod.spec.volumes.find((volume: Fields) => volume.name === name)
      return secret ? [[mountPath, secret.secretName, ...secret.items.map(({ key }: Fields) => key)].join(' ')] : []
    })
    return [container.name, secrets]
  })
  const shared = ['/etc/outrider/postgres-ca shop-ca ca.crt', '/etc/outrider/redis shop-redis url']
  const relay = ['/etc/outrider/postgres outrider-role password', ...shared]
  const owner = ['/etc/outrider/postgres shop-app uri', ...shared]
  expect(Object.fromEntries(mounted)).toEqual({
    relay,
    check: relay,
    setup: owner,
    ping: owner,
  })
})
