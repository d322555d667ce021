import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { scratch } from '../../testkit/services/folder.js'
import { parseObjects } from '../chart/render.js'
import type { KubernetesObject } from '../chart/schemas.js'

/** The files of examples/kubernetes. */
export const fileOf = (name: string): string =>
  fileURLToPath(new URL(`../../examples/kubernetes/${name}`, import.meta.url))

export const textOf = (name: string): string => readFileSync(fileOf(name), 'utf8')

export const manifestsOf = (name: string): KubernetesObject[] => parseObjects(textOf(name))

/** The object of this kind in a file. */
export function manifestOf(name: string, kind: string): KubernetesObject {
  const found = manifestsOf(name).find((object) => object.kind === kind)
  if (!found) throw new Error(`Expected a ${kind} in ${name}, found none.`)
  return found
}

/** A container of a pod, as the manifests have it. */
export interface Container {
  name: string
  env?: { name: string; value: string }[]
  volumeMounts?: { name: string; mountPath: string }[]
  [field: string]: unknown
}

/**
 * The environment that Kubernetes would start a container in, with what is mounted there: contents by path. The files are in a
 * folder of their own, for /etc belongs to this machine.
 */
export function environmentOf({ env = [], volumeMounts = [] }: Container, files: Record<string, string>) {
  const folder = scratch('mounted')
  const mounted = (path: string): string => {
    const content = files[path]
    if (content === undefined) throw new Error(`Expected a content for ${path}, found none.`)
    if (!volumeMounts.some(({ mountPath }) => path.startsWith(`${mountPath}/`))) {
      throw new Error(`Expected a volume that is mounted above ${path}, found none.`)
    }
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    writeFileSync(join(folder, path), content)
    return join(folder, path)
  }
  return Object.fromEntries(env.map(({ name, value }) => [name, value.startsWith('/') ? mounted(value) : value]))
}
