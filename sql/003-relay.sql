-- What the relay knows and has to keep in the database itself, so that it travels with every backup, clone and standby.

do $$
begin
  for attempt in 1 .. 10 loop
    begin
      if not exists (select from pg_catalog.pg_roles where rolname = 'outrider_relay') then
        create role outrider_relay nologin;
        comment on role outrider_relay is
          'May read the outbox and keep the relay''s state. Grant it to the relay''s login role, which also needs REPLICATION.';
      end if;
      grant usage on schema outrider to outrider_relay;
      exit;
    exception
      when duplicate_object or unique_violation or undefined_object then
        if attempt = 10 then
          raise;
        end if;
    end;
  end loop;
end
$$;

create table outrider.lineage (
  lineage uuid not null default gen_random_uuid() constraint lineage_pkey primary key,
  slot text collate "C" not null,
  publication text collate "C" not null,
  source text collate "C" not null,
  outbox_table text collate "C" not null,
  system_id text collate "C" not null,
  timeline integer not null,
  confirmed_lsn pg_lsn,
  publication_state text collate "C" not null,
  created_at timestamptz not null default clock_timestamp(),
  retired_at timestamptz
) with (fillfactor = 50);

create unique index lineage_one_per_slot on outrider.lineage (slot) where retired_at is null;

comment on table outrider.lineage is
  'One unbroken history of publishing: made by `outrider setup` or `outrider adopt` together with its replication slot. At most one per slot is not retired.';
comment on column outrider.lineage.slot is 'The replication slot. It is made once for a lineage and never again: a new one would hide lost events.';
comment on column outrider.lineage.publication is 'The publication that the slot is read with.';
comment on column outrider.lineage.source is 'CloudEvents source of every event; fixed, because consumers deduplicate by it.';
comment on column outrider.lineage.outbox_table is 'The table that is published, as schema.table.';
comment on column outrider.lineage.system_id is 'pg_control_system() of the cluster that this lineage belongs to.';
comment on column outrider.lineage.timeline is 'The highest timeline that the relay has published from.';
comment on column outrider.lineage.confirmed_lsn is
  'All events committed before this are durable in Redis. Null: setup was interrupted before the slot existed; run it again. A slot ahead of it has lost events.';
comment on column outrider.lineage.publication_state is 'outrider.publication_state() when the publication was last known to be whole.';
comment on column outrider.lineage.retired_at is 'When `outrider adopt` or `outrider teardown` ended it.';

create table outrider.session (
  session uuid not null constraint session_pkey primary key,
  lineage uuid not null references outrider.lineage,
  started_at timestamptz not null default clock_timestamp(),
  hostname text not null,
  pid integer not null,
  version text not null,
  timeline integer not null
);

comment on table outrider.session is
  'Each run of a relay as leader, recorded before its first append. A head in Redis that names another session was written by a copy of this database. Never delete rows.';
comment on column outrider.session.timeline is 'The server''s timeline when the session began.';

create table outrider.head (
  lineage uuid not null references outrider.lineage,
  stream_key text collate "C" not null,
  position text collate "C" not null,
  event_id text collate "C" not null,
  entry_id text collate "C" not null,
  session uuid not null references outrider.session,
  updated_at timestamptz not null default clock_timestamp(),
  constraint head_pkey primary key (lineage, stream_key)
) with (fillfactor = 50);

comment on table outrider.head is
  'The last event of each stream that is known to be durable in Redis. A stream in Redis that is behind its row here has lost events: a gap.';
comment on column outrider.head.stream_key is 'The Redis key of the stream: its name, with :N behind it where partitioned.';
comment on column outrider.head.position is 'Timeline, LSN of the commit, index in the transaction; the event''s attribute sequence.';
comment on column outrider.head.entry_id is 'The entry''s id in the Redis stream.';

create table outrider.stream (
  stream text collate "C" not null constraint stream_pkey primary key,
  partitions integer not null constraint stream_partitions_1_to_1024 check (partitions between 1 and 1024)
);

comment on table outrider.stream is 'Partitioned streams and their number of partitions, fixed for the life of the name: another number would break the order of subjects.';

create table outrider.checkpoint (
  lineage uuid not null references outrider.lineage,
  lsn pg_lsn not null,
  snapshot pg_snapshot not null,
  taken_at timestamptz not null default clock_timestamp(),
  constraint checkpoint_pkey primary key (lineage, lsn)
);

comment on table outrider.checkpoint is
  'Proof of what was published: every outbox row whose txid is visible in the snapshot was durable in Redis when the slot was confirmed past the LSN.';

create table outrider.incident (
  id bigint generated always as identity constraint incident_pkey primary key,
  lineage uuid not null references outrider.lineage,
  kind text collate "C" not null constraint incident_kind check (kind in ('gap', 'foreign', 'rejected', 'operator')),
  reason text collate "C" not null,
  stream text collate "C",
  event_id text collate "C",
  position text collate "C",
  detail jsonb not null default '{}',
  -- json, not jsonb: jsonb refuses a string over 256 MiB, and a row may be here for being too large.
  row json,
  opened_at timestamptz not null default clock_timestamp(),
  closed_at timestamptz,
  closed_by text collate "C",
  resolution text,
  constraint incident_rejected_has_position check (kind <> 'rejected' or position is not null)
);

create unique index incident_one_open on outrider.incident (lineage, kind, reason, stream) nulls not distinct
  where closed_at is null and kind in ('gap', 'foreign');
create unique index incident_one_per_rejected_row on outrider.incident (lineage, position) where kind = 'rejected';
create index incident_open on outrider.incident (lineage) where closed_at is null;

comment on table outrider.incident is
  'What a person should know or decide. Open gap: events may be missing in Redis, the relay waits. Open foreign: this database or Redis is a copy, the relay waits. Rejected: one event that could not be published, the rest went on. Read and close with `outrider incidents`, which does what closing needs; do not update by hand.';
comment on column outrider.incident.stream is 'The stream key, where one stream is concerned.';
comment on column outrider.incident.detail is 'What was expected and what was found.';
comment on column outrider.incident.row is 'The whole row, where it was rejected: column name to text as Postgres writes it.';
comment on column outrider.incident.resolution is 'How it ended: adopted, or the note of who closed it.';

create view outrider.rejected with (security_invoker = true) as
select id, lineage, reason, stream, event_id, position, detail, row, opened_at, closed_at, closed_by, resolution
from outrider.incident
where kind = 'rejected';

comment on view outrider.rejected is 'Events that could not be published, each with its reason and its whole row.';

create function outrider.publication_state(publication text) returns text
language sql stable parallel safe
-- Every change to a publication or to its list of tables gives a catalogue row a new oid or xmin; so does dropping a
-- table and adding it again, which looks the same afterwards but leaves a hole in what was decoded.
return (
  select
    p.oid::text || ':' || p.xmin::text
    || coalesce((select string_agg(' ' || r.oid::text || ':' || r.xmin::text, '' order by r.oid)
                 from pg_catalog.pg_publication_rel as r where r.prpubid = p.oid), '')
    || coalesce((select string_agg(' ' || n.oid::text || ':' || n.xmin::text, '' order by n.oid)
                 from pg_catalog.pg_publication_namespace as n where n.pnpubid = p.oid), '')
  from pg_catalog.pg_publication as p
  where p.pubname = publication::name
);

comment on function outrider.publication_state(text) is
  'A text that changes with every change to the publication; null when there is none of this name.';

revoke all on outrider.lineage, outrider.session, outrider.head, outrider.stream, outrider.checkpoint, outrider.incident,
  outrider.rejected from public;
revoke all on function outrider.publication_state(text) from public;

grant select on outrider.outbox, outrider.lineage, outrider.session, outrider.head, outrider.stream,
  outrider.checkpoint, outrider.incident, outrider.rejected, outrider.migration to outrider_relay;
grant insert on outrider.session, outrider.head, outrider.stream, outrider.checkpoint, outrider.incident to outrider_relay;
grant update (timeline, confirmed_lsn) on outrider.lineage to outrider_relay;
grant update on outrider.head, outrider.stream, outrider.incident to outrider_relay;
grant delete on outrider.checkpoint to outrider_relay;
grant execute on function outrider.publication_state(text) to outrider_relay;
