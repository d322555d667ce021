import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseAllDocuments } from 'yaml'
import { scratch } from '../../testkit/services/folder.js'
import type { Helm } from '../support/helm.js'
import { KUBERNETES_VERSIONS, type KubernetesObject } from './schemas.js'

export const CHART = fileURLToPath(new URL('../../charts/outrider', import.meta.url))

/** The sets of values that the chart brings along for trying it: name and path. */
export const VALUES: ReadonlyMap<string, string> = new Map(
  readdirSync(join(CHART, 'ci'))
    .filter((file) => file.endsWith('-values.yaml'))
    .map((file) => [file.replace('-values.yaml', ''), join(CHART, 'ci', file)]),
)

/** What the cluster of these tests can do besides what every cluster can. */
const OPERATORS = ['ServiceMonitor', 'PodMonitor', 'PrometheusRule'].map((kind) => `monitoring.coreos.com/v1/${kind}`)

export interface Rendering {
  chart?: string
  /** Files of values, the later over the earlier. */
  files?: string[]
  /** Values over all of these. */
  values?: object
  release?: string
  kubeVersion?: string
  apiVersions?: readonly string[]
  /** False for an install, which has no teardown. */
  isUpgrade?: boolean
}

const texts = new Map<string, Promise<string>>()

/** The text that Helm makes of a chart, hooks and tests included. The same is asked for by many tests, and made once. */
export function renderText(helm: Helm, rendering: Rendering): Promise<string> {
  const key = JSON.stringify(rendering)
  const text = texts.get(key) ?? helm.run(...argumentsOf(rendering))
  texts.set(key, text)
  return text
}

export async function render(helm: Helm, rendering: Rendering): Promise<KubernetesObject[]> {
  return parseObjects(await renderText(helm, rendering))
}

/** What Helm says when it refuses the values; an error where it takes them. */
export async function refusal(helm: Helm, rendering: Rendering): Promise<string> {
  const { code, out, err } = await helm.try(...argumentsOf(rendering))
  if (code === 0) throw new Error(`Expected Helm to refuse these values, found it to render:\n${out}`)
  return err
}

/** As Kubernetes reads YAML: by version 1.1, where 0440 is octal and `on` is true. */
export function parseObjects(text: string): KubernetesObject[] {
  return parseAllDocuments(text, { version: '1.1' }).flatMap((document) => {
    if (document.errors[0]) throw document.errors[0]
    const object = document.toJS()
    return object === null ? [] : [object]
  })
}

function argumentsOf(rendering: Rendering): string[] {
  const { chart = CHART, files = [], values, release = 'shop', isUpgrade = true } = rendering
  const { kubeVersion = KUBERNETES_VERSIONS.at(-1), apiVersions = OPERATORS } = rendering
  return [
    ...['template', release, chart, '--namespace', 'shop', '--kube-version', `${kubeVersion}`],
    ...apiVersions.flatMap((version) => ['--api-versions', version]),
    ...(isUpgrade ? ['--is-upgrade'] : []),
    ...[...files, ...(values ? [fileOf(values)] : [])].flatMap((file) => ['--values', file]),
  ]
}

function fileOf(values: object): string {
  const file = join(scratch('values'), 'values.json')
  writeFileSync(file, JSON.stringify(values))
  return file
}
