-- serves: 004
-- Repair: a gap is put right from the rows of outrider.outbox. Versions 004 and 005 neither write nor read what is added here.

alter table outrider.session add column number bigint generated always as identity;

comment on column outrider.session.number is 'The order in which sessions began.';

alter table outrider.head add column repaired_by bigint;

comment on column outrider.head.repaired_by is
  'The number of the session that repaired the stream last. A head in Redis that an earlier session wrote is from before that repair, wherever it lies: an old primary that came back.';

alter table outrider.lineage
  add column first_snapshot pg_snapshot,
  add column redis text collate "C";

comment on column outrider.lineage.first_snapshot is
  'Taken before the slot was created: rows that it sees were never published by this lineage. Null where an earlier version created the slot: then a repair without bounds puts back all rows.';
comment on column outrider.lineage.slot is
  'The replication slot. A new one is created only by a repair, which puts back what the old one had not given.';
comment on column outrider.lineage.redis is
  'A hash of the address of the Redis that events were last published to. An empty Redis at another address is not repaired without a person.';

alter table outrider.incident
  add column repaired_at timestamptz,
  add column repair_max bigint constraint incident_repair_max_positive check (repair_max > 0),
  add column repair_halt jsonb;

comment on column outrider.incident.repaired_at is
  'A gap: when the missing events were put back. Transactions that were open then are awaited before it is closed; publishing continues.';
comment on column outrider.incident.repair_max is
  'A gap: a person has asked for its repair, with at most so many events.';
comment on column outrider.incident.repair_halt is
  'A gap: why the relay has halted its repair (`reason`, `message`), and what a person can run (`commands`). Null: it is not halted.';

create table outrider.gap_stream (
  incident bigint not null references outrider.incident on delete cascade,
  stream_key text collate "C" not null,
  snapshot pg_snapshot,
  since timestamptz,
  head text collate "C",
  detail jsonb not null default '{}',
  constraint gap_stream_pkey primary key (incident, stream_key)
);

comment on table outrider.gap_stream is 'The streams that a gap concerns.';
comment on column outrider.gap_stream.snapshot is
  'Rows that it sees are in the stream, as long as the head in Redis is `head`. Null: not known of any row.';
comment on column outrider.gap_stream.since is 'No entry of another row is older.';
comment on column outrider.gap_stream.head is
  'Position and entry of the head as it was found, with a space between; `repaired`: the snapshot is that of a repair.';
comment on column outrider.gap_stream.detail is 'What was expected and what was found.';

create table outrider.repair (
  lineage uuid not null constraint repair_pkey primary key references outrider.lineage,
  session uuid not null references outrider.session,
  timeline integer not null,
  snapshot pg_snapshot not null,
  until_lsn pg_lsn not null,
  unsettled xid8[] not null,
  every_stream boolean not null,
  attempts integer not null default 0,
  found bigint,
  bytes bigint,
  put_back bigint not null default 0,
  began_at timestamptz not null default clock_timestamp()
);

comment on table outrider.repair is
  'The repair of a lineage''s open gaps that is under way, or whose last transactions are awaited.';
comment on column outrider.repair.snapshot is 'Rows that it sees are put back from the table, all others come from WAL.';
comment on column outrider.repair.until_lsn is 'Taken after the snapshot: what commits later is not visible in it.';
comment on column outrider.repair.unsettled is
  'Transactions that were open when the snapshot was taken, until it is known that their rows are in the streams.';
comment on column outrider.repair.every_stream is 'The gap concerns all streams: rows were not decoded.';
comment on column outrider.repair.attempts is 'How often it began to append.';
comment on column outrider.repair.found is 'Events that were missing.';
comment on column outrider.repair.bytes is 'Of their rows.';

-- Unlogged: after a crash of the server the repair begins again.
create unlogged table outrider.present (
  lineage uuid not null,
  session uuid not null,
  stream text collate "C" not null,
  id uuid not null,
  constraint present_pkey primary key (lineage, session, id, stream)
);

comment on table outrider.present is 'Ids of events that a repair has found in the streams. Empty otherwise.';
comment on column outrider.present.session is
  'The session that repairs: what one that was frozen still writes does not count.';

-- A repair reads the rows from one transaction on. There is no BRIN of xid8 itself. Partitions that are created later get the index
-- as well. Its build stops writers, so a large partition is left to `outrider setup --index txid`, which does not.
create index outbox_txid on only outrider.outbox using brin (((txid::text)::bigint))
  with (pages_per_range = 32, autosummarize = on);

do $$
declare
  partition name;
begin
  for partition in
    select c.relname
    from pg_catalog.pg_inherits join pg_catalog.pg_class as c on c.oid = inhrelid
    where inhparent = 'outrider.outbox'::regclass and pg_relation_size(c.oid) < 32 * 1024 * 1024
    order by c.relname
  loop
    execute format(
      'create index %I on outrider.%I using brin (((txid::text)::bigint)) with (pages_per_range = 32, autosummarize = on)',
      partition || '_txid', partition
    );
    execute format('alter index outrider.outbox_txid attach partition outrider.%I', partition || '_txid');
  end loop;
end
$$;

revoke all on outrider.gap_stream, outrider.repair, outrider.present from public;

grant select, insert, update, delete on outrider.gap_stream, outrider.repair to outrider_relay;
grant select, insert, delete on outrider.present to outrider_relay;
grant update (publication_state, redis) on outrider.lineage to outrider_relay;
grant delete on outrider.head to outrider_relay;
