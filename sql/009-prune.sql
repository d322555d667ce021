-- serves: 004
-- Pruning of what the relay keeps here. Earlier versions keep all of it.

create index incident_closed on outrider.incident (closed_at) where closed_at is not null;
create index moved_event_stream on outrider.moved_event (lineage, stream_key, event_id);

comment on table outrider.moved_event is
  'Events that left their stream unfinished, as dead letters or to wait for their next attempt. A repair puts them back although the stream was trimmed past them; a consumer that has finished one by now skips it. The relay deletes the row of an event that is neither a dead letter, nor waiting, nor unfinished in its stream any more.';

grant delete on outrider.incident, outrider.moved_event to outrider_relay;
