import { randomUUID } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { freePort } from '../../testkit/services/port.js'
import { type Host, type Launch, LocalHost } from '../../testkit/services/process.js'
import { Service } from '../../testkit/services/service.js'
import { createCertificate } from './certificate.js'
import { type Etcd, etcdHost, startEtcd } from './etcd.js'
import { kubernetesFolder } from './kubernetes-binaries.js'
import { KubernetesClient } from './kubernetes-client.js'

/** What a chart's objects need. There are no nodes: scheduling and running pods is the tests' own kubelet's. */
const controllers = [
  'deployment-controller',
  'replicaset-controller',
  'job-controller',
  'garbage-collector-controller',
  'namespace-controller',
  'serviceaccount-controller',
  'disruption-controller',
]

/** Where the programs are that a cluster is made of. Throws `Unavailable` where they cannot be had. */
export async function kubernetesHost(): Promise<Host> {
  // First what is quickly had: without it nothing need be built.
  await etcdHost()
  return new LocalHost({ bin: await kubernetesFolder(), origin: 'built here' })
}

/** A cluster without nodes: etcd, the API server, the controllers. Call `remove()` when done. */
export interface Cluster {
  readonly client: KubernetesClient
  /** The file for other programs, with the rights of an administrator. */
  readonly kubeconfig: string
  remove(): Promise<void>
}

export async function startCluster(): Promise<Cluster> {
  const host = await kubernetesHost()
  const started: Service[] = []
  const remove = async () => {
    for (const service of started.reverse()) await service.remove()
  }
  try {
    const etcd = await startEtcd()
    started.push(etcd)
    const server = new ApiServer(host, await freePort(), etcd)
    started.push(server)
    await server.start()
    const rest = new Controllers(host, await freePort(), server)
    started.push(rest)
    await rest.start()
    return { client: server.client, kubeconfig: server.kubeconfig, remove }
  } catch (error) {
    await remove()
    throw error
  }
}

class ApiServer extends Service {
  readonly client: KubernetesClient
  readonly kubeconfig: string
  /** Signs the tokens of service accounts, and serves HTTPS. */
  readonly key: string
  protected readonly endSignal = 'SIGKILL'
  readonly #etcd: Etcd
  readonly #token = randomUUID()

  constructor(host: Host, port: number, etcd: Etcd) {
    super('kubernetes', host, port)
    this.#etcd = etcd
    const { cert, privateKey } = createCertificate({ names: ['127.0.0.1'] })
    const url = `https://127.0.0.1:${port}`
    this.client = new KubernetesClient(url, cert, this.#token)
    this.key = this.#write('key.pem', privateKey.export({ type: 'sec1', format: 'pem' }).toString())
    this.#write('cert.pem', cert)
    this.#write('tokens.csv', `${this.#token},administrator,administrator,system:masters\n`)
    const data = Buffer.from(cert).toString('base64')
    this.kubeconfig = this.#write(
      'kubeconfig',
      stringify({
        apiVersion: 'v1',
        kind: 'Config',
        'current-context': 'test',
        contexts: [{ name: 'test', context: { cluster: 'test', user: 'administrator' } }],
        clusters: [{ name: 'test', cluster: { server: url, 'certificate-authority-data': data } }],
        users: [{ name: 'administrator', user: { token: this.#token } }],
      }),
    )
  }

  protected prepare(): Launch {
    const args = flags({
      'etcd-servers': this.#etcd.url,
      'bind-address': '127.0.0.1',
      'secure-port': String(this.port),
      'tls-cert-file': join(this.folder, 'cert.pem'),
      'tls-private-key-file': this.key,
      'token-auth-file': join(this.folder, 'tokens.csv'),
      'authorization-mode': 'RBAC',
      'service-account-issuer': this.client.url,
      'service-account-key-file': this.key,
      'service-account-signing-key-file': this.key,
      'service-cluster-ip-range': '10.96.0.0/16',
    })
    return { program: 'kube-apiserver', args, folder: this.folder, log: this.log, port: this.port, kind: 'kubernetes' }
  }

  protected answers(): Promise<boolean> {
    return this.client.isReady()
  }

  #write(name: string, text: string): string {
    const file = join(this.folder, name)
    writeFileSync(file, text, { mode: 0o600 })
    return file
  }
}

class Controllers extends Service {
  protected readonly endSignal = 'SIGKILL'
  readonly #server: ApiServer

  constructor(host: Host, port: number, server: ApiServer) {
    super('kubernetes', host, port)
    this.#server = server
  }

  protected prepare(): Launch {
    const args = flags({
      kubeconfig: this.#server.kubeconfig,
      controllers: controllers.join(','),
      'bind-address': '127.0.0.1',
      'secure-port': String(this.port),
      'leader-elect': 'false',
      'service-account-private-key-file': this.#server.key,
    })
    const { folder, log, port } = this
    return { program: 'kube-controller-manager', args, folder, log, port, kind: 'kubernetes' }
  }

  /** What it serves itself has a certificate of its own making; whether it works is seen by what it does. */
  protected async answers(): Promise<boolean> {
    await this.#server.client.get('/api/v1/namespaces/default/serviceaccounts/default')
    return true
  }
}

function flags(settings: Record<string, string>): string[] {
  return Object.entries(settings).map(([name, value]) => `--${name}=${value}`)
}
