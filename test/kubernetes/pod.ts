import type { KubernetesObject } from '../support/kubernetes-client.js'

/** A pod as far as the kubelet of these tests understands it. */
export interface Pod extends KubernetesObject {
  spec: {
    restartPolicy: 'Always' | 'OnFailure' | 'Never'
    initContainers?: Container[]
    containers: Container[]
    volumes?: Volume[]
  }
}

export type Phase = 'Pending' | 'Running' | 'Succeeded' | 'Failed'

export interface Container {
  name: string
  image: string
  command?: string[]
  args?: string[]
  env?: { name: string; value?: string; valueFrom?: unknown }[]
  envFrom?: unknown[]
  volumeMounts?: { name: string; mountPath: string; subPath?: string }[]
  ports?: { name?: string; containerPort: number }[]
  readinessProbe?: { httpGet?: { path: string; port: string | number } }
}

export interface Volume {
  name: string
  configMap?: { name: string; items?: Item[] }
  secret?: { secretName: string; items?: Item[] }
  emptyDir?: object
}

export interface Item {
  key: string
  path: string
}

export interface ContainerStatus {
  name: string
  image: string
  imageID: string
  ready: boolean
  restartCount: number
  state:
    | { waiting: { reason: string; message?: string } }
    | { running: { startedAt: string } }
    | { terminated: { exitCode: number; reason: string; finishedAt: string } }
}
