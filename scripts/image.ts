import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

/** Builds the container image with Docker or Podman: `npm run image`. */

const USAGE = `npm run image [-- --tag <name>] [-- --base <image>] [-- -- <options of "docker build">]

  --tag <name>    what to call it; default outrider:<version>
  --base <image>  build on this image and take it as it is, without asking a registry`

const root = fileURLToPath(new URL('..', import.meta.url))
const read = (file: string): string => readFileSync(new URL(`../${file}`, import.meta.url), 'utf8')

class Problem extends Error {}

/** Its output; undefined where the program is missing or fails, whose message then goes to `complain`. */
function ask(program: string, args: string[], complain?: (message: string) => void): string | undefined {
  const { status, stdout, stderr, error } = spawnSync(program, args, { cwd: root, encoding: 'utf8' })
  if (status === 0) return stdout.trim()
  complain?.(error?.message ?? stderr.trim())
  return undefined
}

/** The first client behind which an engine answers. */
function findClient(): string {
  const found: string[] = []
  for (const client of ['docker', 'podman']) {
    if (ask(client, ['info'], (message) => found.push(`${client}: ${message.split('\n').at(-1)}`)) !== undefined)
      return client
  }
  throw new Problem(
    `Expected a Docker engine or Podman to build with, found none. Start Docker, or install Podman.\n  ${found.join('\n  ')}`,
  )
}

/** The newest of the Dockerfile's default, as `name@digest`: what is built on is then known for ever. */
function pin(client: string, image: string): { image: string; digest: string } {
  console.log(`Resolving ${image} …`)
  let problem = ''
  const pulled = ask(client, ['pull', '--quiet', image], (message) => {
    problem = message
  })
  const digests = pulled && ask(client, ['image', 'inspect', '--format', '{{join .RepoDigests "\\n"}}', image])
  const digest = /@(sha256:[0-9a-f]{64})/.exec(digests || '')?.[1]
  if (digest) return { image: `${image}@${digest}`, digest }
  throw new Problem(
    `Expected the registry to tell the digest of ${image}. ${problem || 'It gave none.'}\n` +
      'Build where the registry can be reached, or name an image that is here with --base.',
  )
}

function main(argv: string[]): void {
  const { values, positionals } = parseArgs({
    args: argv,
    options: { tag: { type: 'string' }, base: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
    allowPositionals: true,
  })
  if (values.help) {
    console.log(USAGE)
    return
  }
  const client = findClient()
  const { version } = JSON.parse(read('package.json')) as { version: string }
  const usual = /^ARG NODE_IMAGE=(\S+)$/m.exec(read('Dockerfile'))?.[1] as string
  const base = values.base ? { image: values.base, digest: '' } : pin(client, usual)
  const changed = ask('git', ['status', '--porcelain']) ? '-changed' : ''
  const revision = ask('git', ['rev-parse', 'HEAD'])
  // The convention of reproducible builds: seconds since 1970.
  const epoch = process.env.SOURCE_DATE_EPOCH
  const created = epoch ? new Date(Number(epoch) * 1_000) : new Date()
  const tag = values.tag ?? `outrider:${version}`
  const settings = {
    NODE_IMAGE: base.image,
    BASE_NAME: values.base ?? usual,
    BASE_DIGEST: base.digest,
    VERSION: version,
    REVISION: revision ? `${revision}${changed}` : '',
    CREATED: created.toISOString(),
  }
  const args = Object.entries(settings).flatMap(([name, value]) => ['--build-arg', `${name}=${value}`])
  execFileSync(client, ['build', ...args, '--tag', tag, ...positionals, root], { stdio: 'inherit' })
  const size = Number(ask(client, ['image', 'inspect', '--format', '{{.Size}}', tag]))
  console.log(`
${tag}, ${(size / 1e6).toFixed(0)} MB (${size} bytes unpacked), on ${base.image}

Try it    ${client} run --rm ${tag} --version
Push it   ${client} tag ${tag} REGISTRY/${tag} && ${client} push REGISTRY/${tag}
Run it    docs/image.md`)
}

try {
  main(process.argv.slice(2))
} catch (error) {
  const known = error instanceof Problem || (error as { code?: string }).code?.startsWith('ERR_PARSE_ARGS_')
  // What the build itself had to say stands above.
  console.error(
    known ? (error as Error).message : `The image was not built: ${(error as Error).message.split('\n')[0]}`,
  )
  process.exitCode = 1
}
