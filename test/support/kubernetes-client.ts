import type { IncomingMessage } from 'node:http'
import { request } from 'node:https'
import { createInterface } from 'node:readline'

export interface Metadata {
  name: string
  namespace?: string
  uid?: string
  resourceVersion?: string
  creationTimestamp?: string
  labels?: Record<string, string>
  annotations?: Record<string, string>
  deletionTimestamp?: string
  deletionGracePeriodSeconds?: number
}

/** What every object has; a caller that knows the kind says the rest. */
export interface KubernetesObject {
  apiVersion: string
  kind: string
  metadata: Metadata
}

export interface Change<T> {
  type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK' | 'ERROR'
  object: T
}

interface Resource {
  name: string
  kind: string
  namespaced: boolean
}

/** What the API server refused, in its own words. */
export class Refusal extends Error {
  override name = 'Refusal'
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message)
  }
}

/** The API of Kubernetes as far as these tests need it, on plain HTTPS. */
export class KubernetesClient {
  readonly #resources = new Map<string, Promise<{ resources: Resource[] }>>()

  constructor(
    readonly url: string,
    private readonly ca: string,
    private readonly token: string,
  ) {}

  async isReady(): Promise<boolean> {
    return (await this.#send('GET', '/readyz')).body === 'ok'
  }

  get<T = KubernetesObject>(path: string): Promise<T> {
    return this.#send('GET', path).then(({ body }) => JSON.parse(body) as T)
  }

  async list<T = KubernetesObject>(path: string): Promise<T[]> {
    return (await this.get<{ items: T[] }>(path)).items
  }

  /** Makes the object; `query` such as `dryRun=All`. Returns what the server warns of. */
  async create(object: KubernetesObject, query = ''): Promise<string[]> {
    const { warnings } = await this.#send('POST', `${await this.#collection(object)}?${query}`, object)
    return warnings
  }

  async post(path: string, body: unknown): Promise<void> {
    await this.#send('POST', path, body)
  }

  /** A merge patch. */
  async patch(path: string, body: unknown): Promise<void> {
    await this.#send('PATCH', path, body)
  }

  async delete(path: string, body: unknown = {}): Promise<void> {
    await this.#send('DELETE', path, body)
  }

  /** Every object there is, then every change, until `signal` says so. */
  async *watch<T extends KubernetesObject>(path: string, signal: AbortSignal): AsyncGenerator<Change<T>> {
    const { items, metadata } = await this.get<{ items: T[]; metadata: { resourceVersion: string } }>(path)
    for (const object of items) yield { type: 'ADDED', object }
    const response = await this.#open('GET', `${path}?watch=1&resourceVersion=${metadata.resourceVersion}`, { signal })
    try {
      for await (const line of createInterface(response)) yield JSON.parse(line) as Change<T>
    } catch (error) {
      if (!signal.aborted) throw error
    }
  }

  async #collection({ apiVersion, kind, metadata }: KubernetesObject): Promise<string> {
    const group = apiVersion.includes('/') ? `/apis/${apiVersion}` : `/api/${apiVersion}`
    const known = this.#resources.get(group) ?? this.get<{ resources: Resource[] }>(group)
    this.#resources.set(group, known)
    const resource = (await known).resources.find((one) => one.kind === kind && !one.name.includes('/'))
    if (!resource) throw new Error(`Expected the API server to know ${kind} of ${apiVersion}, found no such resource`)
    const scope = resource.namespaced ? `/namespaces/${metadata.namespace ?? 'default'}` : ''
    return `${group}${scope}/${resource.name}`
  }

  async #send(method: string, path: string, sent?: unknown): Promise<{ body: string; warnings: string[] }> {
    const response = await this.#open(method, path, sent === undefined ? {} : { body: JSON.stringify(sent) })
    let body = ''
    for await (const chunk of response.setEncoding('utf8')) body += chunk
    const status = response.statusCode ?? 0
    if (status >= 400) {
      const message = body.startsWith('{') ? (JSON.parse(body) as { message: string }).message : body
      throw new Refusal(status, `${method} ${path}: ${message}`)
    }
    return { body, warnings: [response.headers.warning ?? []].flat() }
  }

  #open(method: string, path: string, options: { body?: string; signal?: AbortSignal }): Promise<IncomingMessage> {
    const { body = '', signal } = options
    const headers = {
      authorization: `Bearer ${this.token}`,
      accept: 'application/json',
      'content-type': method === 'PATCH' ? 'application/merge-patch+json' : 'application/json',
      // Node itself says no length for DELETE, and the body would be taken for the next request.
      'content-length': Buffer.byteLength(body),
    }
    const settings = { method, headers, ca: this.ca, ...(signal ? { signal } : {}) }
    return new Promise((resolve, reject) => {
      request(`${this.url}${path}`, settings, resolve).once('error', reject).end(body)
    })
  }
}
