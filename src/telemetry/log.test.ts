import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import { ExitCode, OutriderError } from '../base/failure.js'
import { describeError } from './log.js'

/** Runs `body` in a process of its own, with `log` at hand, and returns what it wrote. */
async function run(
  body: string,
  options = "{ level: 'info', output: 'stdout', pretty: false }",
): Promise<{ out: string; err: string }> {
  const code = `import { createLogger } from ${JSON.stringify(new URL('./log.ts', import.meta.url).href)}
    import { OutriderError } from ${JSON.stringify(new URL('../base/failure.ts', import.meta.url).href)}
    const log = createLogger(${options}); ${body}`
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', code], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  const [out, err] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  return { out, err }
}

const lines = (output: string) =>
  output
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))

describe('a log line', () => {
  it('is JSON with the name of its level, an ISO time and the service', async () => {
    const { out, err } = await run("log.info({ slot: 's' }, 'streaming'); log.debug('not this')")
    expect(lines(out)).toEqual([
      {
        level: 'info',
        time: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
        service: 'outrider',
        slot: 's',
        msg: 'streaming',
      },
    ])
    expect(err).toBe('')
  })

  it('goes to stderr unless it is a service that logs', async () => {
    const { out, err } = await run("log.warn('here')", "{ level: 'info', pretty: false }")
    expect(out).toBe('')
    expect(lines(err)).toMatchObject([{ level: 'warn', msg: 'here' }])
  })

  it('is readable where a person reads', async () => {
    const { out } = await run(
      "log.info({ slot: 's' }, 'streaming')",
      "{ level: 'info', output: 'stdout', pretty: true }",
    )
    expect(out).toMatch(/INFO.*streaming/)
    expect(out).toContain('slot: "s"')
  })

  it('holds no secret, wherever it was put', async () => {
    const { out } = await run(`
      log.info({ password: 'hunter2', postgres: { password: 'hunter2', url: 'postgres://me:hunter2@db/x' }, config: { redis: { password: 'hunter2' } } })
      log.info('connect to redis://:hunter2@r and postgres://me:hun\\\\"ter2@db/x')
      log.error({ err: new Error('no redis://me:hunter2@r/0') })
      const error = Object.assign(new Error('WRONGPASS'), { command: { name: 'auth', args: ['hunter2'] }, detail: 'hunter2' })
      log.error({ err: error })
      log.error({ error })
      log.error({ err: new OutriderError('refused', { cause: error }) })
      log.child({ token: 'hunter2' }).info('child')
    `)
    expect(lines(out)).toHaveLength(7)
    expect(out).not.toContain('hunter2')
    expect(out).not.toContain('ter2')
    expect(out).toContain('postgres://me:***@db/x')
  })

  it('is written before the process ends by itself, however many there are', async () => {
    const { out } = await run("for (let i = 0; i < 20_000; i++) log.info({ i }, 'x'); process.exit(0)")
    expect(lines(out)).toHaveLength(20_000)
  })

  it('does not wait for a reader who has stopped reading', async () => {
    const code = `import { createLogger } from ${JSON.stringify(new URL('./log.ts', import.meta.url).href)}
      const log = createLogger({ level: 'info', output: 'stdout', pretty: false })
      for (let i = 0; i < 5_000; i++) log.info('x'.repeat(1_000))
      process.stderr.write('went on')`
    const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', code], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    onTestFinished(() => void child.kill('SIGKILL'))
    const [said] = await once(child.stderr, 'data')
    expect(String(said)).toBe('went on')
  })
})

describe('an error in the log', () => {
  it('comes with its causes, and an OutriderError without its stack', () => {
    const cause = Object.assign(new Error('no'), { code: 'ECONNREFUSED', query: 'select secret' })
    expect(
      describeError(new OutriderError('Postgres did not answer.', { exitCode: ExitCode.unreachable, cause })),
    ).toEqual({
      type: 'OutriderError',
      message: 'Postgres did not answer.',
      cause: { type: 'Error', message: 'no', code: 'ECONNREFUSED', stack: expect.any(String) },
    })
  })

  it('ends, even when it is its own cause', () => {
    const error = new Error('round')
    error.cause = error
    expect(JSON.stringify(describeError(error)).match(/round/g)?.length).toBeLessThan(10)
  })

  it('may be anything that was thrown', () => {
    expect(describeError('text')).toEqual({ type: 'string', message: 'text' })
  })
})
