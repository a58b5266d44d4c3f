-- Sandboxes that wait for a session: spares.

create table spares (
    id           text primary key,              -- also its tag at the provider
    repository   text not null references repositories (name),
    cause        text not null check (cause in ('interest', 'pool')),
    state        text not null default 'starting'
                 check (state in ('starting', 'booting', 'ready', 'taken', 'ended')),
    reason       text not null default '',      -- why it ended
    token_hash   bytea unique,
    try          integer not null default 0,    -- how often its start was claimed
    provider     text not null default '',
    box          text not null default '',
    ref          text not null default '',      -- what it was started from
    holder       text not null default '',      -- the replica that starts it or holds its bridge
    held_until   timestamptz,
    claimed_at   timestamptz,                   -- when its start began; its boot counts from here
    until        timestamptz not null,          -- it is ended if no session has taken it by then
    cpu          double precision,              -- cores that its box is given; null: not known yet
    mem_mib      integer,                       -- its memory
    lifetime     double precision,              -- seconds after its birth in which it ends; 0: never
    ended_at     timestamptz,                   -- taken or ended
    created_at   timestamptz not null default now()
);
create index spares_live on spares (repository, state) where state in ('starting', 'booting', 'ready');
create index spares_ended on spares (ended_at) where ended_at is not null;

alter table sandboxes
    add column spare        text not null default '', -- the spare whose box this generation took over
    add column wanted_until timestamptz;              -- somebody may soon ask for something: start it without a prompt

create index sandboxes_wanted on sandboxes (wanted_until) where wanted_until is not null;
