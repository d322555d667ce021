import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect } from 'vitest'
import { unwatch, watch } from '../../testkit/services/guard.js'
import { until } from '../../testkit/services/index.js'
import { type ConsumerEnv, consumerTest as test } from './consumer-env.js'
import { GROUP } from './happened.js'

const program = fileURLToPath(new URL('memory-worker.mjs', import.meta.url))
const NAME = 'worker-1'
const KIB = 1024
const MAX_PEAK_MIB = 192

async function append(env: ConsumerEnv, count: number, bytes: number, fails = false): Promise<void> {
  const text = 'x'.repeat(bytes)
  for (let n = 0; n < count; n++) await env.append('things', [{ n, text, fails }])
}

/** A worker process of little memory, until this has happened; its peak of resident memory in MiB. */
async function peakOf(env: ConsumerEnv, happened: () => Promise<void>, ...more: string[]): Promise<number> {
  const args = ['--max-old-space-size=128', program, env.database.url, env.server.url, NAME, ...more]
  const worker = spawn(process.execPath, args, { stdio: ['ignore', 'inherit', 'inherit'] })
  const pid = worker.pid as number
  watch(pid, 'KILL')
  const died = once(worker, 'exit').then(([code, signal]) => {
    throw new Error(`the worker died: ${code ?? signal}`)
  })
  died.catch(() => {})
  try {
    await Promise.race([happened(), died])
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) / KIB
  } finally {
    worker.kill('SIGTERM')
    await died.catch(() => {})
    unwatch(pid)
  }
}

const done = async (env: ConsumerEnv, count: number): Promise<void> => {
  const effects = async () => (await env.pool.query('select count(distinct event)::int as n from effect')).rows[0].n
  let found = 0
  const all = async () => {
    found = await effects()
    return found === count
  }
  await until(all, { timeout: 180_000, message: () => `${count} effects, found ${found}` })
}

describe.runIf(process.platform === 'linux')(
  `with 128 MiB of heap a worker needs less than ${MAX_PEAK_MIB} MiB`,
  () => {
    test('while events of 100 KiB fail, and does the others', { timeout: 480_000 }, async ({ env }) => {
      await env.pool.query('create table downstream ()')
      await append(env, 900, 100 * KIB, true)
      const peak = await peakOf(env, async () => {
        await done(env, 300)
        await env.pool.query('insert into downstream default values')
        await done(env, 900)
      })
      expect(peak).toBeLessThan(MAX_PEAK_MIB)
      expect(await env.dead('things')).toEqual([])
    })

    test('with 1,000 events of 100 KiB of its own on each new connection', { timeout: 480_000 }, async ({ env }) => {
      await env.pool.query('create table downstream ()')
      await env.redis.xgroup('CREATE', 'things', GROUP, '0', 'MKSTREAM')
      await append(env, 1_000, 100 * KIB, true)
      for (let n = 0; n < 20; n++) {
        await env.redis.xreadgroup('GROUP', GROUP, NAME, 'COUNT', 50, 'STREAMS', 'things', '>')
      }
      const peak = await peakOf(env, async () => {
        for (let n = 0; n < 3; n++) {
          await until(async () => (await env.redis.hlen(`outrider:{things}:retries:${GROUP}`)) > n)
          await env.redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
        }
        await env.pool.query('insert into downstream default values')
        await done(env, 1_000)
      })
      expect(peak).toBeLessThan(MAX_PEAK_MIB)
    })

    test('with events of 0.89 MiB', { timeout: 480_000 }, async ({ env }) => {
      await env.pool.query('create table downstream ()')
      await append(env, 200, Math.round(0.89 * KIB * KIB))
      const peak = await peakOf(env, () => done(env, 200))
      expect(peak).toBeLessThan(MAX_PEAK_MIB)
      expect(await env.dead('things')).toEqual([])
    })

    test('with a backlog of small events that continues with events of 0.89 MiB', { timeout: 480_000 }, async ({
      env,
    }) => {
      await env.pool.query('create table downstream ()')
      await env.append(
        'things',
        Array.from({ length: 3_000 }, (_, n) => ({ n, text: '' })),
      )
      await append(env, 100, Math.round(0.89 * KIB * KIB))
      await env.append(
        'things',
        Array.from({ length: 3_000 }, (_, n) => ({ n, text: '' })),
      )
      // A read may have many entries.
      const peak = await peakOf(env, () => done(env, 6_100), '2000')
      expect(peak).toBeLessThan(MAX_PEAK_MIB)
      expect(await env.dead('things')).toEqual([])
    })
  },
)
