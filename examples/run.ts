import { setTimeout as pause } from 'node:timers/promises'
import { analysis } from './analysis/main.js'
import { projection } from './projection/main.js'
import { publication } from './publication/main.js'
import { Account } from './support/account.js'
import { ExampleEnv } from './support/example-env.js'

/** One example from its start to its end: `npm run example -- publication`. */

export type Example = (env: ExampleEnv, account: Account) => Promise<void>

const EXAMPLES: Record<string, Example> = { publication, analysis, projection }
const SIGNALS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const
/** How long the end of an example may take, in milliseconds. After that the guard process ends what still runs. */
const LETTING_GO = 10_000

const interrupt = new AbortController()
const account = new Account()
const env = new ExampleEnv(account)

async function tell(name: string, example: Example): Promise<number> {
  try {
    account.heading(`Example: ${name}`)
    await env.start(new URL(`./${name}/setup.sql`, import.meta.url))
    await example(env, account)
  } catch (error) {
    // The interrupt caused this error.
    if (interrupt.signal.aborted) return 1
    account.check((error as Error).message, false)
    account.say(env.tails())
  }
  account.heading(account.failed === 0 ? 'All of it holds.' : `${account.failed} of it failed.`)
  return account.failed === 0 ? 0 : 1
}

async function main([name = '', ...more]: string[]): Promise<number> {
  const example = Object.hasOwn(EXAMPLES, name) ? EXAMPLES[name] : undefined
  if (!example || more.length > 0) {
    const found = [name, ...more].join(' ')
    console.error(
      `Expected one of ${Object.keys(EXAMPLES).join(', ')}, found "${found}": npm run example -- publication`,
    )
    return 2
  }
  // A second signal ends the process at once; the guard process ends what still runs.
  const interrupted = new Promise<number>((resolve) => {
    for (const [signal, code] of Object.entries(SIGNALS)) {
      process.once(signal, () => {
        interrupt.abort()
        resolve(code)
      })
    }
  })
  const code = await Promise.race([tell(name, example), interrupted])
  // Requests in flight reject when their connections are closed, and no code awaits them any more.
  process.on('unhandledRejection', () => {})
  await Promise.race([env.close(), pause(LETTING_GO)])
  if (interrupt.signal.aborted) account.heading('Stopped. Nothing is left running.')
  return code
}

process.exit(await main(process.argv.slice(2)))
