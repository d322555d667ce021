import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { LocalHost, type Running } from '../../testkit/services/process.js'
import { until } from '../../testkit/services/until.js'
import { type KubernetesClient, Refusal } from '../support/kubernetes-client.js'
import type { Container, ContainerStatus, Phase, Pod } from './pod.js'
import { locate, mountVolumes } from './volumes.js'

/** What stands for an image: a program, with arguments before the container's own. */
export interface Image {
  bin: string
  program: string
  args: string[]
  /** Makes it listen at the pod's address alone. */
  env: (address: string) => Record<string, string>
}

export interface PodRunOptions {
  images: Record<string, Image>
  address: string
  /** Takes its volumes and logs. */
  folder: string
}

const RESTART_DELAY_MS = 1_000
const PROBE_INTERVAL_MS = 100

/** One pod on this machine, from its start to its end. */
export class PodRun {
  /** The files with what its containers wrote. */
  readonly logs: string[] = []
  readonly #running = new Set<Running>()
  readonly #states = new Map<string, ContainerStatus>()
  readonly #path: string
  readonly #ending = new AbortController()
  #phase: Phase = 'Pending'
  #reports: Promise<void> = Promise.resolve()
  #over: Promise<void> = Promise.resolve()
  #deleting = false

  constructor(
    private readonly client: KubernetesClient,
    readonly pod: Pod,
    private readonly options: PodRunOptions,
  ) {
    const { namespace, name } = pod.metadata
    this.#path = `/api/v1/namespaces/${namespace}/pods/${name}`
  }

  start(): void {
    this.#over = this.#live().catch((error) => this.#ignoreGone(error))
  }

  /** The pod's end as the API server orders it: SIGTERM, the grace period, SIGKILL; then it is gone. */
  delete({ metadata }: Pod): void {
    if (this.#deleting) return
    this.#deleting = true
    this.#ending.abort()
    void this.#signal('SIGTERM')
    const late = setTimeout(() => void this.#signal('SIGKILL'), (metadata.deletionGracePeriodSeconds ?? 0) * 1000)
    const preconditions = { uid: this.pod.metadata.uid }
    this.#over = this.#over
      .then(() => this.#reports)
      .then(() => this.client.delete(this.#path, { gracePeriodSeconds: 0, preconditions }))
      .catch((error) => this.#ignoreGone(error))
      .finally(() => clearTimeout(late))
  }

  /** The end of the machine. */
  async kill(): Promise<void> {
    this.#deleting = true
    this.#ending.abort()
    await this.#signal('SIGKILL')
    await this.#over
  }

  async #live(): Promise<void> {
    const { metadata, spec } = this.pod
    const { name, namespace = '' } = metadata
    const target = { apiVersion: 'v1', kind: 'Node', name: 'test' }
    await this.client.post(`${this.#path}/binding`, { apiVersion: 'v1', kind: 'Binding', metadata: { name }, target })
    const unknown = [...(spec.initContainers ?? []), ...spec.containers].filter(({ image }) => !this.#imageOf(image))
    for (const container of unknown) this.#set(container, { waiting: { reason: 'ErrImagePull' } })
    if (unknown.length > 0) return this.#report()
    const mount = () => mountVolumes(this.client, namespace, spec.volumes ?? [], this.options.folder).then(() => true)
    await until(() => this.#isEnding || mount(), { timeout: 60_000, message: `the volumes of pod ${name}` })
    for (const container of spec.initContainers ?? []) {
      if (!(await this.#runToSuccess(container))) return this.#end('Failed')
    }
    this.#phase = 'Running'
    const codes = await Promise.all(spec.containers.map((container) => this.#keepRunning(container)))
    await this.#end(codes.every((code) => code === 0) ? 'Succeeded' : 'Failed')
  }

  get #isEnding(): boolean {
    return this.#ending.signal.aborted
  }

  #imageOf(name: string): Image | undefined {
    return this.options.images[name]
  }

  async #runToSuccess(container: Container): Promise<boolean> {
    for (;;) {
      const code = await this.#runOnce(container)
      if (code === 0) return true
      if (this.#isEnding || this.pod.spec.restartPolicy === 'Never') return false
      await pause(RESTART_DELAY_MS, undefined, { signal: this.#ending.signal }).catch(() => {})
    }
  }

  async #keepRunning(container: Container): Promise<number> {
    for (;;) {
      const code = await this.#runOnce(container)
      const { restartPolicy } = this.pod.spec
      if (this.#isEnding || restartPolicy === 'Never' || (restartPolicy === 'OnFailure' && code === 0)) return code
      await pause(RESTART_DELAY_MS, undefined, { signal: this.#ending.signal }).catch(() => {})
    }
  }

  /** Resolves with the exit code. */
  async #runOnce(container: Container): Promise<number> {
    if (this.#isEnding) return 137
    const image = this.#imageOf(container.image)!
    const root = this.options.folder
    const log = join(root, `${container.name}.log`)
    if (!this.logs.includes(log)) this.logs.push(log)
    const running = await new LocalHost({ bin: image.bin, origin: 'built here' }).launch({
      program: image.program,
      args: [...image.args, ...(container.args ?? []).map((text) => locate(container, root, text))],
      env: { ...environment(container, root), HOSTNAME: this.pod.metadata.name, ...image.env(this.options.address) },
      folder: root,
      log,
      kind: 'kubernetes',
    })
    this.#running.add(running)
    if (this.#isEnding) void running.signal('SIGTERM')
    this.#set(container, { running: { startedAt: new Date().toISOString() } })
    await this.#report()
    const over = new AbortController()
    const probing = this.#probe(container, over.signal)
    const end = await running.ended
    over.abort()
    await probing
    this.#running.delete(running)
    const exitCode = Number(/^exit code (\d+)$/.exec(end)?.[1] ?? 137)
    const reason = exitCode === 0 ? 'Completed' : 'Error'
    this.#set(container, { terminated: { exitCode, reason, finishedAt: new Date().toISOString() } })
    await this.#report()
    return exitCode
  }

  /** Asks for readiness until the container is over, and reports each change of it. */
  async #probe(container: Container, over: AbortSignal): Promise<void> {
    const status = this.#states.get(container.name)!
    while (!over.aborted) {
      const ready = await this.#isReady(container)
      if (over.aborted) return
      if (ready !== status.ready) {
        status.ready = ready
        await this.#report()
      }
      await pause(PROBE_INTERVAL_MS, undefined, { signal: over }).catch(() => {})
    }
  }

  async #isReady({ readinessProbe, ports = [] }: Container): Promise<boolean> {
    const http = readinessProbe?.httpGet
    if (!http) return true
    const port = ports.find(({ name }) => name === http.port)?.containerPort ?? http.port
    const answer = fetch(`http://${this.options.address}:${port}${http.path}`, { signal: AbortSignal.timeout(3_000) })
    return answer.then(
      ({ ok }) => ok,
      () => false,
    )
  }

  #set({ name, image }: Container, state: ContainerStatus['state']): void {
    const restartCount = (this.#states.get(name)?.restartCount ?? -1) + ('running' in state ? 1 : 0)
    const ready = false
    this.#states.set(name, { name, image, imageID: image, ready, restartCount: Math.max(0, restartCount), state })
  }

  async #end(phase: Phase): Promise<void> {
    this.#phase = phase
    await this.#report()
  }

  /** One after the other, so that an older state never covers a newer one. */
  #report(): Promise<void> {
    this.#reports = this.#reports.then(() => this.client.patch(`${this.#path}/status`, { status: this.#status() }))
    return this.#reports
  }

  #status(): object {
    const { initContainers = [], containers } = this.pod.spec
    const statuses = (of: Container[]) => of.flatMap(({ name }) => this.#states.get(name) ?? [])
    const isReady = this.#phase === 'Running' && containers.every(({ name }) => this.#states.get(name)?.ready)
    const status = isReady ? 'True' : 'False'
    const since = new Date().toISOString()
    const conditions = ['Ready', 'ContainersReady'].map((type) => ({ type, status, lastTransitionTime: since }))
    return {
      phase: this.#phase,
      podIP: this.options.address,
      podIPs: [{ ip: this.options.address }],
      startTime: this.pod.metadata.creationTimestamp,
      conditions,
      initContainerStatuses: statuses(initContainers),
      containerStatuses: statuses(containers),
    }
  }

  async #signal(name: NodeJS.Signals): Promise<void> {
    await Promise.all([...this.#running].map((running) => running.signal(name)))
  }

  /** A pod that is gone needs no status. Anything else must not go unseen: a promise that rejects fails the tests. */
  #ignoreGone(error: unknown): void {
    if (error instanceof Refusal && (error.status === 404 || error.status === 409)) return
    if (this.#deleting) return
    throw error
  }
}

function environment(container: Container, root: string): Record<string, string> {
  const { command, env = [], envFrom = [], name } = container
  if (command) throw new Error(`Expected container ${name} to use its image's entrypoint, found ${command.join(' ')}`)
  const foreign = [...envFrom, ...env.filter(({ value }) => value === undefined)]
  if (foreign.length > 0) throw new Error(`Expected plain values in ${name}'s env, found ${JSON.stringify(foreign)}`)
  return Object.fromEntries(env.map(({ name, value = '' }) => [name, locate(container, root, value)]))
}
