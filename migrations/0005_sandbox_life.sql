-- Saved filesystems, boxes that carry work over, what sandboxes cost, archived sessions.

-- A saved filesystem of a session, from before its provider is asked for it (I6)
-- until it is deleted there.
create table saved (
    id         bigint generated always as identity primary key,
    session_id text not null references sessions (id),
    kind       text not null check (kind in ('snapshot', 'park')),
    state      text not null default 'saving' check (state in ('saving', 'kept', 'unwanted', 'gone')),
    box        text not null,               -- what is saved
    provider   text not null,               -- who keeps it
    prompt_id  text not null default '',    -- the last prompt whose work is in it, if a snapshot
    ref        text not null default '',    -- the provider's name of it, once it is known
    held_until timestamptz,                 -- while saving: of the lease of who asks the provider
    retry_at   timestamptz,                 -- while unwanted: not tried again before
    failures   integer not null default 0,  -- of attempts to delete it
    created_at timestamptz not null default now(),
    expires_at timestamptz not null         -- the provider may forget it from then on
);
create index saved_session on saved (session_id, id);
create index saved_box on saved (box);
create index saved_open on saved (state) where state in ('saving', 'unwanted');
create index saved_expiry on saved (expires_at) where state = 'kept';

insert into saved (session_id, kind, state, box, ref, expires_at)
    select session_id, 'park', 'kept', box, ref, now() + interval '90 days' from sandboxes where ref <> '';

alter table sandboxes
    add cpu      double precision not null default 0, -- cores that the box was started with
    add mem_mib  integer not null default 0,          -- its memory
    add lifetime double precision not null default 0, -- seconds after its birth in which it ends; 0: never
    add carry    boolean not null default false,      -- parking: what runs goes on in the next box
    add quiet_prompt text not null default '',        -- all work of this prompt is in order on the disk, and nothing runs
    add quiet_at timestamptz,                         -- since when
    add snapped_prompt text not null default '',      -- the last such prompt of which a snapshot was tried
    add snap_soon boolean not null default false;     -- that one was worth nothing: the next one is taken at once

-- A running prompt without a boot is between two boxes. continuation is what its
-- next boot is told instead of the text; since is the commit that it began from.
alter table prompts
    add continuation text not null default '',
    add since        text not null default '';

-- What boxes cost, in intervals that grow with every heartbeat.
create table sandbox_usage (
    id         bigint generated always as identity primary key,
    purpose    text not null default 'session' check (purpose in ('session', 'pool', 'image')),
    session_id text references sessions (id), -- null: of no session
    generation bigint not null default 0,     -- of the session's box
    person     uuid references people (id),   -- whose request ran, or ran last
    prompt_id  text,                          -- the request that ran; null: none did
    began_at   timestamptz not null,
    ended_at   timestamptz not null,
    cpu        double precision not null,     -- cores
    mem_mib    integer not null,              -- requested, or more if more was used
    cost_usd   double precision not null
);
create index sandbox_usage_session on sandbox_usage (session_id, id);
create index sandbox_usage_prompt on sandbox_usage (prompt_id) where prompt_id is not null;
create index sandbox_usage_time on sandbox_usage (ended_at);

alter table sessions add archived_at timestamptz;
update sessions set archived_at = updated_at where state = 'archived';
create index sessions_quiet on sessions (updated_at) where state = 'open';
create index sessions_archived on sessions (archived_at) where state = 'archived';

-- Boxes that are to be ended are looked for every two seconds, among all sessions that there ever were.
create index sandboxes_boxed on sandboxes (state) where box <> '';
