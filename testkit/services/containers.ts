import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { appendFileSync } from 'node:fs'
import type { Readable } from 'node:stream'
import { finished } from 'node:stream/promises'
import { promisify } from 'node:util'
import { serviceAccount } from './account.js'
import { type Host, type Launch, type Running, tail } from './process.js'
import { until } from './until.js'

/** Whether a Docker daemon answers. */
export async function hasDocker(): Promise<boolean> {
  const info = promisify(execFile)('docker', ['info'], { timeout: 10_000 })
  return info.then(
    () => true,
    () => false,
  )
}

/**
 * Runs programs in containers of one image. The server's folder is mounted at its own path and its port is the same
 * inside and outside, so all else is as with processes, also after a restart, which is a new container.
 */
export async function containerHost(image: string): Promise<Host> {
  if (await hasDocker()) return new ContainerHost(image)
  throw new Error(
    `Expected Docker to answer in order to run ${image}, but "docker info" fails. Start Docker, or unset OUTRIDER_TEST_SERVICES.`,
  )
}

class ContainerHost implements Host {
  readonly isLocal = false
  readonly origin = 'Docker'
  readonly unpackedInto = undefined
  readonly listens = '0.0.0.0'
  readonly peer = 'host.docker.internal'

  constructor(private readonly image: string) {}

  async run(launch: Launch): Promise<void> {
    const { Wait } = await import('testcontainers')
    const { container } = await this.#container(launch)
    const done = await container.withWaitStrategy(Wait.forOneShotStartup()).start()
    await done.stop()
  }

  async launch(launch: Launch): Promise<Running> {
    const { getContainerRuntimeClient } = await import('testcontainers')
    const { container, logged } = await this.#container(launch)
    const started = await container.start().catch(async (cause: Error) => {
      await logged()
      const what = `Expected ${launch.program} to start in a container of ${this.image}: ${cause.message}`
      throw new Error(`${what}\n${tail(launch.log)}`, { cause })
    })
    const docker = (await getContainerRuntimeClient()).container.getById(started.getId())
    const { State } = await docker.inspect()
    let alive = true
    const ended = docker.wait().then(async (end: { StatusCode: number }) => {
      alive = false
      await logged()
      await docker.remove()
      return `exit code ${end.StatusCode}`
    })
    return {
      pid: State.Pid,
      ended,
      signal: async (name) => {
        // It may end by itself in between, which is no error for a signal to a process either.
        await docker.kill({ signal: name }).catch(async (error: Error) => {
          if (alive && (await docker.inspect()).State.Running) throw error
        })
      },
      // On a busy machine runc gives up at times (cgroups of version 1), and may be asked again.
      freeze: async () => {
        await until(() => docker.pause().then(() => true), { message: 'a container to be paused' })
      },
      // A signal to a paused container resumes it as well, and the engine says so only a moment later. Until then it
      // refuses to resume it ("cannot resume a running process"), as it does once the container has stopped.
      thaw: async () => {
        const thawed = async () => {
          if (!alive || !(await docker.inspect()).State.Paused) return true
          await docker.unpause()
          return true
        }
        await until(thawed, { message: 'a container to be resumed' })
      },
    }
  }

  async #container(launch: Launch) {
    const { GenericContainer, Wait } = await import('testcontainers')
    const own = { uid: process.getuid?.(), gid: process.getgid?.() }
    const { uid, gid } = (launch.kind === 'postgres' && serviceAccount()) || own
    const name = `outrider-test-${randomUUID()}`
    let output: Readable | undefined
    const container = new GenericContainer(this.image)
      .withName(name)
      .withEntrypoint([launch.program])
      .withCommand(launch.args)
      .withEnvironment(launch.env ?? {})
      .withBindMounts([{ source: launch.folder, target: launch.folder }])
      .withExtraHosts([{ host: this.peer, ipAddress: 'host-gateway' }])
      .withUser(`${uid}:${gid}`)
      .withLogConsumer((stream) => {
        output = stream.on('data', (line) => appendFileSync(launch.log, line))
      })
      // The service itself asks whether it serves; here it is enough that the container was started.
      .withWaitStrategy(Wait.forSuccessfulCommand('true'))
    if (launch.port) container.withExposedPorts({ container: launch.port, host: launch.port })
    // The last words come a moment after the end is known; where that came at once, nobody has listened yet.
    const logged = async () => {
      if (output) await finished(output, { signal: AbortSignal.timeout(5_000) }).catch(() => {})
      else appendFileSync(launch.log, await lastWords(name))
    }
    return { container, logged }
  }
}

/** What a container said that ended before its ports were bound. Testcontainers leaves such a one behind. */
async function lastWords(name: string): Promise<string> {
  const docker = (...args: string[]) => promisify(execFile)('docker', args)
  const { stdout, stderr } = await docker('logs', name).catch((error: Error) => ({ stdout: '', stderr: error.message }))
  await docker('rm', '--force', name).catch(() => {})
  return `${stdout}${stderr}`
}
