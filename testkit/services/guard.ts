import { type ChildProcess, spawn } from 'node:child_process'

/*
 * Ends what this process started when this process ends, even by SIGKILL: a shell that reads from a pipe whose other
 * end only this process holds. At the end of the pipe it stops the processes that were named to it and not taken back,
 * and removes the run's folder. It knows no other process, so it can never end what was not started here.
 */
const script = `
trap '' HUP INT TERM
live=
while read -r sign pid signal; do
  if [ "$sign" = + ]; then live="$live $pid:$signal"; continue; fi
  rest=
  for one in $live; do [ "\${one%%:*}" = "$pid" ] || rest="$rest $one"; done
  live=$rest
done
for one in $live; do kill -s "\${one##*:}" "\${one%%:*}"; kill -s CONT "\${one%%:*}"; done
tries=0
while [ "$tries" -lt 50 ]; do
  left=
  for one in $live; do kill -0 "\${one%%:*}" && left=yes; done
  [ "$left" ] || break
  sleep 0.1
  tries=$((tries + 1))
done
for one in $live; do kill -s KILL "\${one%%:*}"; done
rm -rf -- "$1"
`

let guard: ChildProcess | undefined

/** Called once, with the folder to remove in the end. */
export function startGuard(folder: string): void {
  // Detached: Ctrl-C goes to the whole foreground group, and the guard must outlive that.
  guard = spawn('sh', ['-c', script, 'guard', folder], { stdio: ['pipe', 'ignore', 'ignore'], detached: true })
  guard.unref()
  guard.stdin?.on('error', () => {})
  ;(guard.stdin as unknown as { unref(): void }).unref()
  // A test worker whose runner was killed would linger, and its servers with it.
  if (process.send) process.once('disconnect', () => process.exit(1))
}

function tell(line: string): void {
  if (!guard?.stdin) throw new Error('Expected startGuard() before the first process')
  guard.stdin.write(`${line}\n`)
}

/** From now on `pid` ends with this process, by `signal` (without SIG) and, where that is not heard, by KILL. */
export function watch(pid: number, signal: 'QUIT' | 'KILL'): void {
  tell(`+ ${pid} ${signal}`)
}

/** `pid` has ended; its number may soon be somebody else's. */
export function unwatch(pid: number): void {
  tell(`- ${pid}`)
}
