-- serves: 004
-- Trimming of the streams. Earlier versions neither write nor read what is added here, and do not trim.

alter table outrider.lineage add column trims boolean not null default false;
-- From here on for those that are new: what an earlier version published is not trimmed without being asked for.
alter table outrider.lineage alter column trims set default true;

comment on column outrider.lineage.trims is
  'Streams without settings of their own are trimmed. False: an earlier version made the lineage, and only what the configuration names is trimmed.';

create table outrider.horizon (
  lineage uuid not null references outrider.lineage,
  stream_key text collate "C" not null,
  lsn pg_lsn not null,
  snapshot pg_snapshot not null,
  updated_at timestamptz not null default clock_timestamp(),
  constraint horizon_pkey primary key (lineage, stream_key)
) with (fillfactor = 50);

comment on table outrider.horizon is
  'How far each stream was trimmed: rows that the snapshot sees were finished by every group, were removed for the maximum length, or left the stream as outrider.moved_event says. A repair does not put them back.';
comment on column outrider.horizon.lsn is 'Of the checkpoint that the snapshot is of. It only rises.';

create table outrider.consumer_group (
  lineage uuid not null references outrider.lineage,
  stream_key text collate "C" not null,
  consumer_group text collate "C" not null,
  floor text collate "C" not null,
  dead_entry text collate "C" not null default '0-0',
  waiting_entry text collate "C" not null default '0-0',
  replayed_entry text collate "C" not null default '0-0',
  updated_at timestamptz not null default clock_timestamp(),
  constraint consumer_group_pkey primary key (lineage, stream_key, consumer_group)
) with (fillfactor = 50);

comment on table outrider.consumer_group is
  'Consumer groups that the relay has seen in the streams. One that Redis has lost holds up trimming as before. Delete the row of a group that was removed for good.';
comment on column outrider.consumer_group.floor is
  'Entries before it were finished by the group when it was last seen. 0-0: nothing is known to be.';
comment on column outrider.consumer_group.dead_entry is
  'Dead letters of the group up to this entry are in outrider.moved_event.';
comment on column outrider.consumer_group.waiting_entry is
  'Events that the group had set aside up to this entry of its waiting stream are in outrider.moved_event.';

comment on column outrider.consumer_group.replayed_entry is
  'Dead letters of the group that were put back, up to this entry of the list of them, are in outrider.moved_event.';

create table outrider.moved_event (
  lineage uuid not null references outrider.lineage,
  stream_key text collate "C" not null,
  event_id text collate "C" not null,
  constraint moved_event_pkey primary key (lineage, event_id, stream_key)
);

comment on table outrider.moved_event is
  'Events that left their stream unfinished, as dead letters or to wait for their next attempt, also those that were put back to its end. A repair puts them back although the stream was trimmed past them; a consumer that has finished one by now skips it.';

revoke all on outrider.horizon, outrider.consumer_group, outrider.moved_event from public;
grant select, insert, update on outrider.horizon, outrider.consumer_group to outrider_relay;
grant select, insert on outrider.moved_event to outrider_relay;
