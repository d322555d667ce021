/**
 * Locks of this database that are awaited, with `pid`, `relation`, `locktype`, `classid` and `objid`: other tests of the server wait for
 * locks, too, and tables of databases that were copied from one template have the same oid. For a `from`.
 */
export const LOCK_WAITS = `(select * from pg_locks where not granted and database = (select oid from pg_database where datname = current_database())) as waits`
