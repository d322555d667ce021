-- Once, by the owner of the database, after `outrider setup`.

create table upload (
  file text primary key,
  bytes bigint not null,
  sha256 text not null,
  uploaded_at timestamptz not null default clock_timestamp()
);

-- One row for each content, analysis and version of the analysis.
create table analysis (
  sha256 text not null,
  analysis text not null,
  version integer not null,
  words integer not null,
  distinct_words integer not null,
  -- How often the result was committed, for the checks of the example. More than 1 means that a worker analysed the content again.
  runs integer not null default 1,
  primary key (sha256, analysis, version)
);

-- A role for each service, with only the privileges that it needs. Give each role a password from your secret store, or a certificate.

create role uploads login in role outrider_writer;
grant insert on upload to uploads;

-- Publishes nothing, so it may not write to the outbox.
create role analysis_worker login in role outrider_consumer;
grant select, insert, update on analysis to analysis_worker;
