-- Once, by the owner of the workers' database, before `outrider setup --only inbox --grant-consumer invoices_worker`, which gives the
-- role its inbox.

create table invoice (
  id bigint generated always as identity primary key,
  order_id text not null,
  total numeric not null
);

-- The worker's role: its own table and, granted by setup, the inbox. Give it a password: alter role invoices_worker password '…'.
create role invoices_worker login;
grant insert on invoice to invoices_worker;
