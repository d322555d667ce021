import { randomInt } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { scratch } from '../../testkit/services/folder.js'
import type { KubernetesClient } from '../support/kubernetes-client.js'
import type { Pod } from './pod.js'
import { type Image, PodRun } from './pod-run.js'

/**
 * The one node of a test cluster: runs each pod's containers as processes of this machine, with their environment and
 * with the files of their volumes, and reports what becomes of them, as a kubelet does. What it cannot do: namespaces
 * of the kernel (each pod has an address of 127.0.0.0/8 instead), limits, liveness probes.
 */
export class Kubelet {
  readonly #client: KubernetesClient
  readonly #images: Record<string, Image>
  readonly #runs = new Map<string, PodRun>()
  readonly #stop = new AbortController()
  readonly #network = `127.${randomInt(1, 255)}`
  #watching: Promise<void> = Promise.resolve()
  #addresses = 0

  constructor(client: KubernetesClient, images: Record<string, Image>) {
    this.#client = client
    this.#images = images
  }

  start(): void {
    this.#watching = this.#watch()
  }

  /** Ends every process; resolves when all have ended. */
  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#watching
    await Promise.all([...this.#runs.values()].map((run) => run.kill()))
  }

  /** What the containers of pods wrote whose name begins so, also of pods that are gone. */
  logs(namespace: string, prefix: string): string {
    const wanted = [...this.#runs.values()].filter(({ pod: { metadata } }) => {
      return metadata.namespace === namespace && metadata.name.startsWith(prefix)
    })
    return wanted.flatMap(({ logs }) => logs.map((file) => readFileSync(file, 'utf8'))).join('')
  }

  async #watch(): Promise<void> {
    for await (const { type, object } of this.#client.watch<Pod>('/api/v1/pods', this.#stop.signal)) {
      const { uid = '', deletionTimestamp } = object.metadata
      const known = this.#runs.get(uid)
      if (type === 'DELETED') void known?.kill()
      else if (known && deletionTimestamp) known.delete(object)
      else if (type === 'ADDED' && !known && !deletionTimestamp) this.#runs.set(uid, this.#run(object))
    }
  }

  #run(pod: Pod): PodRun {
    const index = ++this.#addresses
    const address = `${this.#network}.${index >> 8}.${index & 255}`
    const run = new PodRun(this.#client, pod, { address, images: this.#images, folder: scratch('pod') })
    run.start()
    return run
  }
}
