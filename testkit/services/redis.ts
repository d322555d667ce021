import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { type RedisOptions as AnyClientOptions, Redis as Client } from 'ioredis'
import { copyTree } from './folder.js'
import { freePort } from './port.js'
import type { Host, Launch } from './process.js'
import { chosenRedis, type RedisVersion, redisHost, serverProgram } from './redis-binaries.js'
import { Service } from './service.js'
import { until } from './until.js'

/** Replies in the same shapes as with Redis 6, which is what the types of a plain client say. */
type ClientOptions = Omit<AnyClientOptions, 'replyMapping'>

export interface RedisOptions {
  /** Default: that of `replicaOf`, else OUTRIDER_TEST_REDIS, else any. A test calls `redisVersion` first. */
  version?: RedisVersion | undefined
  /** Lines of redis.conf; several values are several lines. Nothing is saved to disk unless they say so. */
  settings?: Record<string, string | string[]>
  /** False: started with its settings as arguments, as in a container without a configuration file. */
  configFile?: boolean
  /** Its environment, such as that of `daDK()`. */
  env?: Record<string, string>
  replicaOf?: Redis
  /** Starts from a copy of these data, as given by `cloneData()`. */
  dataFrom?: string
  port?: number
}

/** Starts a Redis of its own; that takes a few hundredths of a second. Call `remove()` when done. */
export async function startRedis(options: RedisOptions = {}): Promise<Redis> {
  if (process.env.OUTRIDER_TEST_REDIS_URL) {
    throw new Error(
      'Expected to start a Redis, but OUTRIDER_TEST_REDIS_URL says to use the given one. ' +
        'A test that controls the process calls needsProcess(context) first; another takes freshRedis().',
    )
  }
  const version = options.version ?? options.replicaOf?.version ?? chosenRedis()
  const port = options.port ?? (await freePort())
  const settings = await withBusPort(options.settings)
  const redis = new Redis(await redisHost(version), port, { ...options, settings, version })
  try {
    await redis.initialize()
    await redis.start()
  } catch (error) {
    await redis.remove()
    throw error
  }
  return redis
}

/** By default the bus of a cluster is at the port and 10,000, which another server or an outgoing connection may have. */
async function withBusPort(settings: RedisOptions['settings'] = {}): Promise<NonNullable<RedisOptions['settings']>> {
  if (settings['cluster-enabled'] !== 'yes') return settings
  return { 'cluster-port': String(await freePort()), ...settings }
}

export class Redis extends Service {
  /** Undefined where any serves. */
  readonly version: RedisVersion | undefined
  protected readonly endSignal = 'SIGKILL'
  readonly #options: RedisOptions
  readonly #settings: Record<string, string | string[]>

  constructor(host: Host, port: number, options: RedisOptions) {
    super('redis', host, port)
    this.version = options.version
    this.#options = options
    this.#settings = {
      save: '',
      appendonly: 'no',
      'protected-mode': 'no',
      'repl-diskless-sync-delay': '0',
      ...options.settings,
    }
    if (options.replicaOf) this.#settings.replicaof = `${host.peer} ${options.replicaOf.port}`
  }

  /** Makes the data folder; called once, before the first start. */
  async initialize(): Promise<void> {
    if (this.#options.dataFrom) await copyTree(this.#options.dataFrom, this.dataDir)
    else mkdirSync(this.dataDir)
  }

  get url(): string {
    const password = this.#settings.requirepass
    return `redis://${typeof password === 'string' && password ? `:${encodeURIComponent(password)}@` : ''}127.0.0.1:${this.port}`
  }

  /** A client that connects at the first command and never reconnects. Call `disconnect()` when done. */
  client(options: ClientOptions = {}): Client {
    return redisClient(this.url, options)
  }

  /** One command on a connection of its own. */
  async command(name: string, ...values: string[]): Promise<unknown> {
    const client = this.client()
    return client.call(name, ...values).finally(() => client.disconnect())
  }

  /** CONFIG SET; like there, forgotten at a restart. */
  async config(name: string, value: string): Promise<void> {
    await this.command('CONFIG', 'SET', name, value)
  }

  /**
   * The settings hold from now on and through later restarts. A kill may have cut the append-only file within a
   * transaction. Redis up to 8.10 drops the half command alone, and at the next restart executes the half transaction
   * together with whatever was written since: a batch that was sent again is then in its stream twice. So the file is
   * written again from memory, as docs/operations.md says.
   *
   * https://github.com/valkey-io/valkey/pull/4342
   */
  override async start(settings: Record<string, string | string[]> = {}): Promise<void> {
    Object.assign(this.#settings, settings)
    const before = this.#truncations()
    await super.start()
    if (this.#truncations() > before) await this.#rewriteAppendOnlyFile()
  }

  /** How often it has cut a half command off its append-only file. */
  #truncations(): number {
    return readFileSync(this.log, 'utf8').split('Truncating the AOF').length
  }

  async #rewriteAppendOnlyFile(): Promise<void> {
    // Refused while it does so by itself.
    await until(() => this.command('BGREWRITEAOF'))
    const running = /aof_rewrite_(in_progress|scheduled):1/
    await until(async () => !running.test(String(await this.command('INFO', 'persistence'))), {
      message: 'the append-only file to be written again',
    })
  }

  /** An orderly shutdown, which syncs the append-only file; resolves when it has ended. */
  async stop(): Promise<void> {
    const ended = this.ended()
    await this.kill('SIGTERM')
    await ended
  }

  protected prepare(): Launch {
    const settings = { port: String(this.port), bind: this.host.listens, ...this.#settings }
    const lines = Object.entries(settings).flatMap(([name, values]) => [values].flat().map((value) => [name, value]))
    const { env = {}, configFile = true } = this.#options
    const file = join(this.folder, 'redis.conf')
    if (configFile) {
      writeFileSync(file, lines.map(([name, value]) => `${name} ${value === '' ? '""' : value}\n`).join(''))
    }
    const words = lines.flatMap(([name, value]) => [`--${name}`, ...(value ?? '').split(' ')])
    return {
      program: serverProgram(this.version),
      args: [...(configFile ? [file] : words), '--dir', this.dataDir],
      env,
      folder: this.folder,
      log: this.log,
      port: this.port,
      kind: 'redis',
    }
  }

  /** Asked without a client, since a password or an ACL must not matter: any answer but LOADING is one. */
  protected answers(): Promise<boolean> {
    return new Promise((resolve) => {
      const socket = connect(this.port, '127.0.0.1', () => socket.write('PING\r\n'))
      socket.setTimeout(1000, () => socket.destroy())
      socket.once('data', (reply) => {
        resolve(!reply.toString().startsWith('-LOADING'))
        socket.destroy()
      })
      socket.on('error', () => {})
      socket.once('close', () => resolve(false))
    })
  }
}

export function redisClient(url: string, options: ClientOptions = {}): Client {
  const client = new Client(url, { lazyConnect: true, maxRetriesPerRequest: 0, retryStrategy: () => null, ...options })
  // Killing the server is what these tests do; the next command on the client reports it.
  client.on('error', () => {})
  return client
}
