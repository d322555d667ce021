import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { KubernetesClient, KubernetesObject } from '../support/kubernetes-client.js'
import type { Container, Item, Volume } from './pod.js'

interface Data extends KubernetesObject {
  data?: Record<string, string>
}

/** Makes each volume a folder of its name. Throws, in the API server's words, while a Secret or ConfigMap is missing. */
export async function mountVolumes(
  client: KubernetesClient,
  namespace: string,
  volumes: Volume[],
  root: string,
): Promise<void> {
  for (const volume of volumes) {
    const files = await filesOf(client, namespace, volume)
    mkdirSync(join(root, volume.name), { recursive: true })
    for (const [name, content] of files) writeFileSync(join(root, volume.name, name), content)
  }
}

async function filesOf(client: KubernetesClient, namespace: string, volume: Volume): Promise<[string, Buffer][]> {
  const at = `/api/v1/namespaces/${namespace}`
  if (volume.emptyDir) return []
  if (volume.configMap) {
    const { data = {} } = await client.get<Data>(`${at}/configmaps/${volume.configMap.name}`)
    return choose(data, volume.configMap.items, 'utf8')
  }
  if (volume.secret) {
    const { data = {} } = await client.get<Data>(`${at}/secrets/${volume.secret.secretName}`)
    return choose(data, volume.secret.items, 'base64')
  }
  throw new Error(`Expected a volume of a kind that this kubelet knows, found ${JSON.stringify(volume)}`)
}

function choose(data: Record<string, string>, items: Item[] | undefined, encoding: BufferEncoding): [string, Buffer][] {
  const wanted = items ?? Object.keys(data).map((key) => ({ key, path: key }))
  return wanted.map(({ key, path }) => {
    const value = data[key]
    if (value === undefined) throw new Error(`references non-existent key: ${key}`)
    return [path, Buffer.from(value, encoding)]
  })
}

/** A path inside a container as the folder that stands for its volume: processes here see the machine's own files. */
export function locate(container: Container, root: string, text: string): string {
  const mounts = [...(container.volumeMounts ?? [])].sort((a, b) => b.mountPath.length - a.mountPath.length)
  const mount = mounts.find(({ mountPath }) => text === mountPath || text.startsWith(`${mountPath}/`))
  if (!mount) return text
  if (mount.subPath) throw new Error(`Expected whole volumes, found ${mount.mountPath} with a subPath`)
  return join(root, mount.name) + text.slice(mount.mountPath.length)
}
