-- Once, by the owner of the workers' database, after `outrider setup` (or `outrider setup --only inbox`).

create table invoice (
  id bigint generated always as identity primary key,
  order_id text not null,
  total numeric not null
);

-- The worker's role: the inbox (outrider_consumer), its own table, and nothing else. Its password is where you keep secrets.
create role invoices_worker login in role outrider_consumer;
grant insert on invoice to invoices_worker;
