import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, beforeEach, expect } from 'vitest'
import { freePort, until } from '../../testkit/services/index.js'
import { committed, expectComplete, Load } from '../relay/load.js'
import { relayTest as it } from '../relay/relay-env.js'
import { type Engine, NoEngine, startEngine } from '../support/engine.js'
import { needsDebian, standInBase } from './base.js'
import { hardened, image, RelayContainer } from './container.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const nodeImage = process.env.OUTRIDER_TEST_NODE_IMAGE

let engine: Engine
/** Why there is no image here. */
let missing: string | undefined
let baseSize = 0

beforeAll(async () => {
  missing = nodeImage ? undefined : needsDebian()
  if (missing) return
  try {
    engine = await startEngine('host')
  } catch (error) {
    if (!(error instanceof NoEngine)) throw error
    missing = error.message
    return
  }
  const on = nodeImage ? { node: nodeImage, build: nodeImage } : await standInBase(engine)
  baseSize = await sizeOf(on.node)
  const own = ['--base', on.node, '--tag', image]
  const builder = ['--network=host', '--build-arg', `BUILD_IMAGE=${on.build}`]
  const proxies = ['HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY'].flatMap((name) => ['--build-arg', name])
  const args = ['--import', 'tsx', 'scripts/image.ts', ...own, '--', ...builder, ...proxies]
  await promisify(execFile)(process.execPath, args, { cwd: root, env: engine.env, maxBuffer: 2 ** 26 })
}, 400_000)

beforeEach(({ skip }) => {
  if (missing) skip(missing)
})

afterAll(async () => {
  await engine?.stop()
})

const sizeOf = async (name: string) => Number(await engine.docker('image', 'inspect', '--format={{.Size}}', name))

/** What a shell prints in a container of the image, as the image's own user unless told otherwise. */
const shell = (command: string, ...options: string[]) =>
  engine.docker('run', '--rm', '--network=none', ...hardened, ...options, '--entrypoint=sh', image, '-c', command)

it('holds the built relay, its production dependencies and nothing else', async () => {
  const found = (await shell('find / -xdev -not -path "/proc/*" -not -path "/sys/*"', '--user=0')).split('\n')
  const named = (pattern: RegExp) => found.filter((path) => pattern.test(path))
  expect(named(/^\/app\/[^/]+$/).sort()).toEqual(
    ['LICENSE', 'dist', 'node_modules', 'package-lock.json', 'package.json', 'sql'].map((name) => `/app/${name}`),
  )
  expect(named(/\/(npm|npx|yarn|corepack|\.npmrc|npmrc|\.env|\.git|_cacache)$/)).toEqual([])
  expect(named(/^\/app\/dist\/.*\.test\.js$|^\/app\/.*\.([cm]?ts|map|pem|key)$/)).toEqual([])
  expect(named(/^\/app\/node_modules\/(typescript|vitest|tsx|testcontainers)$/)).toEqual([])
  expect(named(/^\/app\/dist\/redis\/scripts\/append\.lua$|^\/app\/sql\/001-outbox\.sql$/)).toHaveLength(2)
  expect(Number(await shell('find /app -not -user 0 -o -perm /0022 ! -type l | wc -l'))).toBe(0)
})

it('needs no install script, and has none of the development dependencies', async () => {
  type Lock = { packages: Record<string, { dev?: boolean; hasInstallScript?: boolean }> }
  const lock = JSON.parse(await shell('cat node_modules/.package-lock.json')) as Lock
  const packages = Object.entries(lock.packages)
  expect(packages.length).toBeGreaterThan(20)
  expect(packages.filter(([, { dev, hasInstallScript }]) => dev || hasInstallScript)).toEqual([])
})

it('tells nothing of how it was built, and everything of what it is', async () => {
  const [{ Config: config }] = JSON.parse(await engine.docker('image', 'inspect', image))
  expect(config.User).toBe('65532:65532')
  expect(config.Env.map((line: string) => line.split('=')[0]).sort()).toEqual(
    expect.arrayContaining(['NODE_ENV', 'PATH']),
  )
  const history = await engine.docker('history', '--no-trunc', '--format={{.CreatedBy}}', image)
  expect(`${history}\n${config.Env.join('\n')}`).not.toMatch(/registry|_authToken|cafile|proxy/i)
  const version = await engine.docker('run', '--rm', '--network=none', ...hardened, image, '--version')
  expect(config.Labels).toMatchObject({
    'org.opencontainers.image.licenses': 'Apache-2.0',
    'org.opencontainers.image.version': version,
    'org.opencontainers.image.created': expect.stringMatching(/^20\d\d-.*Z$/),
  })
  // For those who exec into a pod.
  expect(await shell('outrider --version')).toBe(version)
  expect(await shell('id -u; id -g; touch /app/x 2>/dev/null || echo refused')).toBe('65532\n65532\nrefused')
})

it('relays in a locked container, is healthy, and drains on docker stop', async ({ env }) => {
  await env.insert('first')
  const started = performance.now()
  const relay = await RelayContainer.run(engine, env.variables)
  await until(async () => (await env.redis.xlen('first')) === 1)
  const first = performance.now() - started
  await until(async () => (await relay.inspect('{{.State.Health.Status}}')) === 'healthy')
  const idle = await relay.memory()
  const size = await sizeOf(image)
  console.log(
    `image: ${size} bytes, ${size - baseSize} of them on top of its base; first event ${Math.round(first)} ms after ` +
      `docker run; idle memory ${idle}`,
  )
  const load = new Load(env.database, 'orders')
  await load.more(50)
  await relay.stop()
  await load.stop()
  expect(await relay.inspect('{{.State.ExitCode}} {{.State.OOMKilled}}')).toBe('0 false')
  expect(await engine.docker('logs', relay.name)).toContain('"drained":true')
  // What was read when the stop came is there, in order; the rest comes with the next start.
  const [found, all] = [await env.ids('orders'), await committed(env.database, 'orders')]
  expect(found).toEqual(all.slice(0, found.length))
  await relay.start()
  await expectComplete(env, 'orders')
})

it('comes back after docker kill, and loses and doubles nothing', async ({ env }) => {
  const relay = await RelayContainer.run(engine, env.variables)
  const load = new Load(env.database, 'orders')
  for (let kills = 0; kills < 3; kills++) {
    const before = await env.redis.xlen('orders')
    await until(async () => (await env.redis.xlen('orders')) > before)
    await relay.kill()
    expect(await relay.inspect('{{.State.ExitCode}}')).toBe('137')
    await relay.start()
  }
  await load.stop()
  await expectComplete(env, 'orders')
})

it('ends a command on docker stop, though it waits and listens to no signal', async () => {
  let met = false
  const deaf = createServer(() => {
    met = true
  })
  const port = await freePort()
  await once(deaf.listen(port, '127.0.0.1'), 'listening')
  const name = `outrider-test-command-${process.pid}`
  const host = `127.0.0.1:${port}`
  const urls = { POSTGRES: `postgres://nobody@${host}/none`, REDIS: `redis://${host}` }
  const variables = Object.entries(urls).map(([key, url]) => `--env=OUTRIDER_${key}_URL=${url}`)
  const command = ['setup', '--timeout', '60s']
  await engine.docker(
    'run',
    '--detach',
    `--name=${name}`,
    '--network=host',
    ...hardened,
    ...variables,
    image,
    ...command,
  )
  try {
    await until(() => met, { message: 'the command to connect' })
    await engine.docker('stop', '-t', '30', name)
    expect(await engine.docker('inspect', '--format={{.State.ExitCode}}', name)).toBe('143')
  } finally {
    await engine.docker('rm', '--force', name)
    deaf.close()
  }
})
