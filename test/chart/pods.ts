import { type KubernetesObject, nameOf } from './schemas.js'

// biome-ignore lint/suspicious/noExplicitAny: as the chart makes them; the schemas have looked at their fields.
export type Fields = Record<string, any>

export interface PodTemplate {
  /** The object that it is in. */
  name: string
  metadata: Fields
  spec: Fields
}

/** The pods that objects are, or lead to. */
export function podTemplates(objects: KubernetesObject[]): PodTemplate[] {
  return objects.flatMap((object) => {
    const pod = object.kind === 'Pod' ? object : object.spec?.template
    return pod?.spec?.containers ? [{ name: nameOf(object), metadata: pod.metadata, spec: pod.spec }] : []
  })
}

export const containersOf = ({ initContainers = [], containers }: Fields): Fields[] => [
  ...initContainers,
  ...containers,
]

export interface Container {
  pod: PodTemplate
  container: Fields
}

/** The containers that run Outrider, and none that the values added. */
export const ours = (objects: KubernetesObject[]): Container[] =>
  podTemplates(objects).flatMap((pod) =>
    containersOf(pod.spec)
      .filter(({ env = [] }) => env.some(({ name }: Fields) => name === 'OUTRIDER_CONFIG'))
      .map((container) => ({ pod, container })),
  )

/**
 * What the level "restricted" would refuse, for pods of Linux.
 * https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
 */
export function violations({ name, spec }: PodTemplate): string[] {
  const found: string[] = []
  const expect = (is: boolean, what: string) => {
    if (!is) found.push(`${name}: ${what}`)
  }
  const pod = spec.securityContext ?? {}
  for (const field of ['hostNetwork', 'hostPID', 'hostIPC']) expect(!spec[field], field)
  for (const { name, ...source } of spec.volumes ?? []) {
    expect(
      Object.keys(source).every((type) => VOLUMES.has(type)),
      `volume ${name}: ${Object.keys(source)}`,
    )
  }
  for (const { name, securityContext: own = {}, ports = [] } of containersOf(spec)) {
    const context = { ...pod, ...own }
    expect(!ports.some((port: Fields) => port.hostPort), `${name}: hostPort`)
    expect(!context.privileged, `${name}: privileged`)
    expect(context.allowPrivilegeEscalation === false, `${name}: allowPrivilegeEscalation`)
    expect(context.runAsNonRoot === true, `${name}: runAsNonRoot`)
    expect(context.runAsUser !== 0, `${name}: runAsUser`)
    expect(context.capabilities?.drop?.includes('ALL') ?? false, `${name}: capabilities.drop`)
    expect(
      !context.capabilities?.add?.some((added: string) => added !== 'NET_BIND_SERVICE'),
      `${name}: capabilities.add`,
    )
    expect(['RuntimeDefault', 'Localhost'].includes(context.seccompProfile?.type), `${name}: seccompProfile`)
    for (const field of ['procMount', 'sysctls', 'seLinuxOptions', 'windowsOptions', 'appArmorProfile']) {
      expect(context[field] === undefined, `${name}: ${field}`)
    }
  }
  return found
}

const VOLUMES = new Set([
  'configMap',
  'csi',
  'downwardAPI',
  'emptyDir',
  'ephemeral',
  'persistentVolumeClaim',
  'projected',
  'secret',
])
