import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { describe, latenciesOf, passed } from '../examples/demo/summary.js'
import { Tally } from '../examples/demo/writer.js'
import { shaOf, type Truth } from './oracle/truth.js'
import { judge, readStreams } from './oracle/verdict.js'
import { freshRedis, needsProcess, redisClient, until } from './services/index.js'

const main = fileURLToPath(new URL('../examples/demo/main.ts', import.meta.url))

const demo = (...args: string[]) =>
  spawn(process.execPath, ['--import', 'tsx', main, ...args], { stdio: ['ignore', 'pipe', 'inherit'] })

it('carries real payloads through kills of the relay, and finds nothing wrong', {
  timeout: 120_000,
}, async (context) => {
  needsProcess(context)
  const child = demo('--events', '2000', '--kills', '2')
  const [output, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')])
  expect(code, output).toBe(0)
  expect(output).toMatch(/^ +committed +2,000 /m)
  expect(output).toMatch(/^ +rolled back +[1-9]\d* /m)
  expect(output).toMatch(/^ +published +2,000 /m)
  for (const check of ['lost', 'duplicated', 'out of order', 'phantom', 'altered']) {
    expect(output).toMatch(new RegExp(`✔ ${check} +0 `))
  }
  expect(output).toMatch(/latency p50 +[\d,]+ ms/)
  expect(output).toMatch(/latency p99 +[\d,]+ ms/)
  expect(output).toMatch(/throughput +[\d,]+\/s/)
  expect(output).toMatch(/kills +2 /)
  expect(output).not.toContain('\x1b')
})

it('leaves everything running with --keep, until it is interrupted', { timeout: 120_000 }, async (context) => {
  needsProcess(context)
  const child = demo('--events', '100', '--kills', '0', '--keep')
  let output = ''
  child.stdout.on('data', (chunk) => {
    output += chunk
  })
  const find = (pattern: RegExp) =>
    until(() => pattern.exec(output)?.[1], { timeout: 60_000, message: () => `${pattern} in\n${output}` })
  await find(/(left running until Ctrl-C)/)
  const [url, ready] = [await find(/Redis +(redis:\S+)/), await find(/(http:\S+\/readyz).* active/)]
  const ping = () => {
    const client = redisClient(url)
    return client.ping().finally(() => client.disconnect())
  }
  expect(await ping()).toBe('PONG')
  expect(await (await fetch(ready)).json()).toMatchObject({ role: 'active', state: 'streaming' })
  const ended = once(child, 'exit')
  child.kill('SIGINT')
  expect(await ended).toEqual([0, null])
  await expect(ping()).rejects.toThrow()
  await expect(fetch(ready)).rejects.toThrow()
})

it('fails when an entry is missing from a stream', async () => {
  const redis = await freshRedis()
  const client = redis.client()
  const truth: Truth[] = []
  const entries: string[] = []
  for (let n = 1; n <= 3; n++) {
    const [id, data] = [`id-${n}`, `{"n":${n}}`]
    truth.push({ id, writer: 1, counter: n, stream: 'demo', subject: 'one', subjectSeq: n, sha: shaOf(data) })
    const fields = { id, subject: 'one', data, sequence: String(n) }
    entries.push((await client.xadd('demo', '*', ...Object.entries(fields).flat())) as string)
  }
  const outcome = async () => {
    const seen = await readStreams(client, ['demo'])
    const latencies = latenciesOf(seen, new Map([['id-1', Number.parseInt(entries[0] as string, 10) - 7]]))
    return { verdict: judge(truth, seen), tally: new Tally(), latencies, seconds: 1, takeovers: [] }
  }
  const whole = await outcome()
  expect(passed(whole.verdict)).toBe(true)
  expect(describe(whole)).toMatch(/latency p99 +7 ms/)

  await client.xdel('demo', entries[2] as string)
  const less = await outcome()
  expect(passed(less.verdict)).toBe(false)
  expect(describe(less)).toMatch(/✘ lost +1 .*\n +id-3 in demo/)
  expect(describe(less)).toContain('A check failed')
  client.disconnect()
  await redis.remove()
})

it('says what is wrong with an option, and does not begin', async () => {
  const child = spawn(process.execPath, ['--import', 'tsx', main, '--events', 'many'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const [output, [code]] = await Promise.all([text(child.stderr), once(child, 'exit')])
  expect(code).toBe(2)
  expect(output).toContain('--events: expected a whole number from 100 to 1000000, found "many".')
})
