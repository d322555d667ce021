-- serves: 004
-- Requests: rows of outrider.outbox that a person wants in their streams again. Earlier versions neither write nor read what is added here.

create table outrider.request (
  id bigint generated always as identity constraint request_pkey primary key,
  lineage uuid not null references outrider.lineage,
  kind text collate "C" not null constraint request_kind check (kind in ('republish', 'audit')),
  arguments jsonb not null default '{}',
  state text collate "C" not null default 'waiting'
    constraint request_state check (state in ('collecting', 'waiting', 'running', 'done', 'refused', 'cancelled')),
  snapshot pg_snapshot,
  session uuid,
  found bigint,
  bytes bigint,
  appended bigint not null default 0,
  gone bigint not null default 0,
  rejected bigint not null default 0,
  through bigint not null default 0,
  message text collate "C",
  requested_at timestamptz not null default clock_timestamp(),
  requested_by text collate "C" not null default session_user,
  began_at timestamptz,
  updated_at timestamptz not null default clock_timestamp(),
  ended_at timestamptz
) with (fillfactor = 50);

create index request_open on outrider.request (lineage, id) where ended_at is null;

comment on table outrider.request is
  'Rows that are appended to streams again, each once for each request: written by `outrider republish` and `outrider audit --repair`, executed by the relay that leads.';
comment on column outrider.request.arguments is
  'Which rows: `since`, `stream`, `type`; or `ids`, how many rows of outrider.request_event. `to`: the stream that they are appended to; theirs where it is missing.';
comment on column outrider.request.state is
  'collecting: its events are still being named. refused, cancelled: ended before all rows were appended; `message` says why.';
comment on column outrider.request.snapshot is 'Taken when it began: rows that it does not see are not part of the request.';
comment on column outrider.request.session is 'The session that executes it, or did so last.';
comment on column outrider.request.found is 'Rows that were to be appended when it began.';
comment on column outrider.request.bytes is 'Of their data.';
comment on column outrider.request.appended is 'Rows that are in their streams, and durable.';
comment on column outrider.request.gone is 'Rows that left the table before their turn.';
comment on column outrider.request.rejected is 'Rows that could not be published, each with an incident.';
comment on column outrider.request.through is 'Rows of the request up to this `seq` need not be looked at again.';

create table outrider.request_event (
  request bigint not null references outrider.request on delete cascade,
  id uuid not null,
  stream text collate "C" not null default '',
  constraint request_event_pkey primary key (request, id, stream)
);

comment on table outrider.request_event is 'The events that a request names, until it has ended.';
comment on column outrider.request_event.stream is 'Empty: of every stream that has an event with this id.';

create table outrider.request_stream (
  request bigint not null references outrider.request on delete cascade,
  stream_key text collate "C" not null,
  first_entry text collate "C" not null,
  from_entry text collate "C" not null,
  through bigint not null default 0,
  session bigint not null,
  constraint request_stream_pkey primary key (request, stream_key)
) with (fillfactor = 50);

comment on table outrider.request_stream is
  'The streams that a request appends to, until it has ended: what a session that continues it has to look at.';
comment on column outrider.request_stream.first_entry is
  'The last entry of the stream before the request appended its first event: events behind it may be those of the request.';
comment on column outrider.request_stream.from_entry is
  'Events of the request up to `through` are in the stream and durable; those of later rows can only be behind this entry.';
comment on column outrider.request_stream.session is
  'The number of the session that wrote the row last. Where a later one has repaired the stream, `from_entry` and `through` do not hold.';

revoke all on outrider.request, outrider.request_event, outrider.request_stream from public;
grant select, insert, update on outrider.request to outrider_relay;
grant select, insert, delete on outrider.request_event to outrider_relay;
grant select, insert, update, delete on outrider.request_stream to outrider_relay;
