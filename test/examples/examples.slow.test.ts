import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { needsProcess, until } from '../../testkit/services/index.js'

const main = fileURLToPath(new URL('../../examples/run.ts', import.meta.url))

const example = (args: string[], env: NodeJS.ProcessEnv = {}) =>
  spawn(process.execPath, ['--import', 'tsx', main, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  })

/** What an example prints, where it ends by itself with exit code 0 and nothing that was to hold did not. */
async function accountOf(name: string): Promise<string> {
  const child = example([name])
  const [output, errors, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'exit')])
  expect(code, output + errors).toBe(0)
  expect(output).not.toContain('✘')
  expect(output).not.toContain('\x1b')
  expect(errors).toBe('')
  return output
}

it('publication: from an editor’s change to a verdict to a read model', async (context) => {
  needsProcess(context)
  const output = await accountOf('publication')
  expect(output).toMatch(
    /^ +moons +1 +invalid +the title is missing; 3 words, .* needed; there is something left to do$/m,
  )
  expect(output).toMatch(/^ +comets +1 +valid$/m)
  expect(output).toMatch(/^ +moons +2 +valid$/m)
  expect(output).toMatch(/^ +tides +1 +valid$/m)
  const requested = [...output.matchAll(/article\.validation_requested +(\w+) +- +(\w+)$/gm)]
  expect(requested).toHaveLength(4)
  for (const [, id, correlation] of requested) {
    expect(output).toMatch(new RegExp(`article\\.valid(ated|ation_failed) +\\w+ +${id} +${correlation}$`, 'm'))
  }
  expect(output.match(/✔/g)).toHaveLength(5)
})

it('analysis: long work is done once, though a worker is killed and another is stopped', async (context) => {
  needsProcess(context)
  const output = await accountOf('analysis')
  const [, killed] = output.match(/^ +(worker \w) is killed$/m) ?? []
  const [, heir] = output.match(/^ +(worker \w) has counted doomed\.txt: 6000 words$/m) ?? []
  expect(killed).toBeDefined()
  expect(heir).toBeDefined()
  expect(heir).not.toBe(killed)
  expect(output).toMatch(/^ +worker \w gives up damaged\.txt$/m)
  expect(output).toMatch(/^ +novel\.txt +30000 +100 +1$/m)
  expect(output).not.toMatch(/begins novel-later\.txt/)
  expect(output.match(/✔/g)).toHaveLength(7)
})

it('projection: a new table takes the place of the old one while events continue', async (context) => {
  needsProcess(context)
  const output = await accountOf('projection')
  expect(output).toMatch(/^ +It shows 450 changes to 150 products\.$/m)
  expect(output).toMatch(/^ +There were [1-9]\d* changes meanwhile, [1-9]\d* of them after the swap\.$/m)
  expect(output).toMatch(/^ +✔ both tables agree/m)
  expect(output).toMatch(/^ +✔ readers see 150 products, each in its newest version$/m)
  expect(output.match(/✔/g)).toHaveLength(6)
})

it('leaves nothing running when it is interrupted', async (context) => {
  needsProcess(context)
  const child = example(['projection'])
  let output = ''
  child.stdout.on('data', (chunk) => {
    output += chunk
  })
  await until(() => output.includes('It is built again'), { message: () => `a start\n${output}` })
  const started = descendantsOf(child)
  // The relay, a worker, and the servers with their own children.
  expect(started.length).toBeGreaterThan(5)
  const ended = once(child, 'close')
  child.kill('SIGINT')
  expect(await ended).toEqual([130, null])
  expect(output).toContain('Stopped. Nothing is left running.')
  expect(output).not.toContain('✘')
  await until(() => !started.some(isAlive), { message: 'all that was started to end' })
})

it('ends with exit code 1 where something fails, and says what', async () => {
  // Servers of its own are refused where servers are given.
  const child = example(['publication'], { OUTRIDER_TEST_POSTGRES_URL: 'postgres://127.0.0.1:1/given' })
  const [output, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')])
  expect(code).toBe(1)
  expect(output).toMatch(/^ +✘ Expected to start a Postgres, but/m)
})

it('says which examples there are, and begins none', async () => {
  const child = example(['publishing'])
  const [output, [code]] = await Promise.all([text(child.stderr), once(child, 'exit')])
  expect(code).toBe(2)
  expect(output).toContain('Expected one of publication, analysis, projection, found "publishing"')
})

/** Its children and theirs; a process that ends meanwhile has none. */
function descendantsOf({ pid }: Pick<ChildProcess, 'pid'>): number[] {
  try {
    const children = readdirSync(`/proc/${pid}/task`).flatMap((task) =>
      readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' ').filter(Boolean).map(Number),
    )
    return children.flatMap((child) => [child, ...descendantsOf({ pid: child })])
  } catch {
    return []
  }
}

/** A zombie has ended. */
function isAlive(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '')[0] !== 'Z'
  } catch {
    return false
  }
}
