import type { TestContext } from 'vitest'
import { freshRedis, startProxy } from '../../testkit/services/index.js'
import type { createRelayEnv } from './relay-env.js'

/** A relay that reaches one of its servers through a proxy. */
export async function through(
  which: 'redis' | 'postgres',
  { createEnv, onTestFinished }: Pick<TestContext, 'onTestFinished'> & { createEnv: typeof createRelayEnv },
) {
  const redis = await freshRedis()
  const env = await createEnv({ redis })
  const url = which === 'redis' ? redis.url : (env.variables.OUTRIDER_POSTGRES_URL as string)
  const proxy = await startProxy(Number(new URL(url).port))
  onTestFinished(() => proxy.close())
  const start = () => env.relay({ [`OUTRIDER_${which.toUpperCase()}_URL`]: proxy.url(url) })
  return { env, proxy, start }
}
