import { onTestFinished } from 'vitest'
import { freePort } from '../../testkit/services/index.js'
import type { Engine } from '../support/engine.js'

/** The names of the images that these tests build. */
export const image = 'outrider-test/outrider'

/** As docs/image.md says to run it. */
export const hardened = ['--read-only', '--cap-drop=ALL', '--security-opt=no-new-privileges', '--memory=256m']

let containers = 0

/** A relay in a container on this machine's network, where the servers of the tests are. */
export class RelayContainer {
  private constructor(
    private readonly engine: Engine,
    readonly name: string,
    readonly port: number,
  ) {}

  static async run(engine: Engine, env: Record<string, string>): Promise<RelayContainer> {
    const name = `outrider-test-${process.pid}-${containers++}`
    const port = await freePort()
    const settings = { ...env, OUTRIDER_HTTP_PORT: String(port), OUTRIDER_HTTP_HOST: '127.0.0.1' }
    const variables = Object.entries(settings).map(([key, value]) => `--env=${key}=${value}`)
    onTestFinished(async () => {
      await engine.docker('rm', '--force', name)
    })
    await engine.docker(
      'run',
      '--detach',
      `--name=${name}`,
      '--network=host',
      '--health-interval=1s',
      ...hardened,
      ...variables,
      image,
    )
    return new RelayContainer(engine, name, port)
  }

  async start(): Promise<void> {
    await this.engine.docker('start', this.name)
  }

  /** As `docker stop` does: SIGTERM, and SIGKILL when that was not heard in time. */
  async stop(): Promise<void> {
    await this.engine.docker('stop', '-t', '30', this.name)
  }

  async kill(): Promise<void> {
    await this.engine.docker('kill', this.name)
  }

  inspect(format: string): Promise<string> {
    return this.engine.docker('inspect', `--format=${format}`, this.name)
  }

  /** Memory in use as the engine sees it, without what the kernel could drop at once. */
  memory(): Promise<string> {
    return this.engine.docker('stats', '--no-stream', '--format={{.MemUsage}}', this.name)
  }
}
