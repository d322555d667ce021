import { beforeAll, describe, expect, test } from 'vitest'
import { BUILD_TIMEOUT, prepare } from '../support/go.js'
import { helm, helmPath } from '../support/helm.js'
import { containersOf, ours, podTemplates, violations } from './pods.js'
import { parseObjects, render, VALUES } from './render.js'

beforeAll(() => prepare(helmPath), BUILD_TIMEOUT)

describe.each([...VALUES])('a pod of the values "%s"', (_name, file) => {
  test('may run where Pod Security is restricted', async (context) => {
    const pods = podTemplates(await render(await helm(context), { files: [file] }))
    expect(pods.length).toBeGreaterThan(0)
    expect(pods.flatMap(violations)).toEqual([])
  })

  test('writes nowhere, gets no token and no list of the Services next to it', async (context) => {
    for (const { name, spec } of podTemplates(await render(await helm(context), { files: [file] }))) {
      expect({ name, token: spec.automountServiceAccountToken, links: spec.enableServiceLinks }).toEqual({
        name,
        token: false,
        links: false,
      })
      for (const { name, securityContext } of containersOf(spec)) {
        expect({ name, readOnly: securityContext.readOnlyRootFilesystem }).toEqual({ name, readOnly: true })
      }
    }
  })

  test('runs one version of an image, within limits of memory', async (context) => {
    const objects = await render(await helm(context), { files: [file] })
    for (const { image, name } of podTemplates(objects).flatMap(({ spec }) => containersOf(spec))) {
      expect(image, name).toMatch(/(:(?!latest$)[\w.-]+|@sha256:[0-9a-f]{64})$/)
    }
    for (const { container } of ours(objects)) {
      expect(container.resources, container.name).toEqual({
        requests: { cpu: expect.any(String), memory: expect.any(String) },
        limits: { memory: expect.any(String) },
      })
    }
  })

  test('finds no secret anywhere but in the files of its volumes', async (context) => {
    const objects = await render(await helm(context), { files: [file] })
    expect(objects.map(({ kind }) => kind)).not.toContain('Secret')
    expect(JSON.stringify(objects)).not.toMatch(/:\/\/[^\s/@"]*:[^\s/@"]+@/)
    for (const { spec } of podTemplates(objects)) {
      for (const { env = [], envFrom = [] } of containersOf(spec)) {
        expect([...env, ...envFrom].filter((given) => JSON.stringify(given).includes('ecretRef'))).toEqual([])
        expect(env.filter(({ name }: { name: string }) => /PASSWORD$/.test(name))).toEqual([])
      }
    }
  })
})

test('the level "restricted" is known here as it is to Kubernetes', () => {
  const [pod] = podTemplates(
    parseObjects(`
kind: Pod
metadata: { name: one }
spec:
  hostNetwork: true
  volumes: [{ name: disk, hostPath: { path: / } }, { name: secret, secret: { secretName: one } }]
  securityContext: { runAsNonRoot: true, seccompProfile: { type: RuntimeDefault } }
  initContainers:
    - name: right
      securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: [ALL], add: [NET_BIND_SERVICE] } }
  containers:
    - name: wrong
      ports: [{ containerPort: 80, hostPort: 80 }]
      securityContext:
        privileged: true
        runAsUser: 0
        runAsNonRoot: false
        capabilities: { drop: [CHOWN], add: [SYS_ADMIN] }
        seccompProfile: { type: Unconfined }
        procMount: Unmasked
`),
  )
  expect(violations(pod!)).toEqual([
    'Pod one: hostNetwork',
    'Pod one: volume disk: hostPath',
    'Pod one: wrong: hostPort',
    'Pod one: wrong: privileged',
    'Pod one: wrong: allowPrivilegeEscalation',
    'Pod one: wrong: runAsNonRoot',
    'Pod one: wrong: runAsUser',
    'Pod one: wrong: capabilities.drop',
    'Pod one: wrong: capabilities.add',
    'Pod one: wrong: seccompProfile',
    'Pod one: wrong: procMount',
  ])
})
