-- The truth of the whole product. One log per session, many cursors over it.

create table people (
    id            uuid primary key,
    slack_team    text,
    slack_user    text,
    name          text not null,
    email         text not null default '',
    avatar_url    text not null default '',
    github_id     bigint unique,
    github_login  text,
    github_access    bytea,          -- sealed
    github_refresh   bytea,          -- sealed
    github_expires   timestamptz,
    github_broken    text,           -- why the link has to be made again
    admin         boolean not null default false,
    created_at    timestamptz not null default now(),
    unique (slack_team, slack_user)
);

create table repositories (
    name           text primary key, -- owner/name
    github_id      bigint not null,
    default_branch text not null,
    description    text not null default '',
    private        boolean not null default true,
    active         boolean not null default true,
    seen_at        timestamptz not null default now()
);

-- The repository that a channel's requests mean when they name none.
create table channel_repositories (
    team       text not null,
    channel    text not null,
    repository text not null references repositories (name),
    primary key (team, channel)
);

create table sessions (
    id          text primary key,
    title       text not null default '',
    repository  text references repositories (name),
    repository_why text not null default '',
    base_branch text not null default '',
    head        text not null default '',  -- last head of the session's branch, as the git door recorded it
    model       text not null default '',
    state       text not null default 'open' check (state in ('open', 'archived')),
    -- who has to choose the repository while there is none: the small model or a person
    choice      text not null default '' check (choice in ('', 'model', 'people')),
    choice_from text[] not null default '{}', -- the repositories to choose from, most likely first
    choice_at   timestamptz,                  -- not before this time (a lease while a replica asks)
    team        text,
    channel     text,
    thread      text,
    created_by  uuid not null references people (id),
    last_seq    bigint not null default 0,
    cost_usd    double precision not null default 0,
    idle_since  timestamptz,               -- when a prompt last ended
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    unique (team, channel, thread)
);
create index sessions_recent on sessions (created_at desc);
create index sessions_choice on sessions (choice_at) where choice = 'model';

create table prompts (
    id          text primary key,
    session_id  text not null references sessions (id),
    position    bigint not null,           -- queue order within the session
    author      uuid not null references people (id),
    source      text not null check (source in ('slack', 'web', 'extension', 'github', 'agent')),
    text        text not null,
    attachments jsonb not null default '[]',
    model       text not null default '',
    state       text not null default 'queued'
                check (state in ('queued', 'running', 'completed', 'failed', 'stopped', 'cancelled')),
    reason      text not null default '',
    message_ts  text,                      -- the Slack message it came as
    boot        text,                      -- the boot it was given to
    stop_wanted_by uuid references people (id),
    answer      text not null default '',
    files       integer not null default 0,
    additions   integer not null default 0,
    deletions   integer not null default 0,
    cost_usd    double precision not null default 0,
    input_tokens  bigint not null default 0,
    output_tokens bigint not null default 0,
    created_at  timestamptz not null default now(),
    started_at  timestamptz,
    ended_at    timestamptz,
    unique (session_id, position)
);
create unique index prompts_one_running on prompts (session_id) where state = 'running';
create index prompts_open on prompts (session_id, position) where state in ('queued', 'running');
create index prompts_author on prompts (author);
create unique index prompts_message on prompts (session_id, message_ts) where message_ts is not null;

-- I1: what came in, by its dedupe key, inserted with its effect.
create table inbound (
    key         text primary key,
    session_id  text,
    prompt_id   text,
    received_at timestamptz not null default now()
);

-- I4: the log.
create table events (
    session_id text not null references sessions (id),
    seq        bigint not null,
    prompt_id  text,
    kind       text not null,
    body       json not null,              -- not jsonb: it is stored and shown, never searched
    boot       text,
    n          bigint,
    at         timestamptz not null,
    primary key (session_id, seq)
);
create unique index events_of_boot on events (session_id, boot, n) where boot is not null; -- I5
create index events_of_prompt on events (prompt_id, seq) where prompt_id is not null;

-- What came with prompts; apart, because lists of prompts do not need the data.
create table attachments (
    prompt_id text not null references prompts (id),
    position  integer not null,
    name      text not null,
    mime      text not null,
    data      bytea not null,
    primary key (prompt_id, position)
);

-- Parts still being written: replaced by their finished event.
create table running_parts (
    session_id text not null references sessions (id),
    part       text not null,
    prompt_id  text not null,
    kind       text not null,
    text       text not null,
    updated_at timestamptz not null default now(),
    primary key (session_id, part)
);

create table artifacts (
    id         uuid primary key,
    session_id text not null references sessions (id),
    prompt_id  text,
    kind       text not null check (kind in ('branch', 'pull_request', 'screenshot', 'file')),
    key        text not null,              -- unique within the session
    url        text not null,
    title      text not null default '',
    body       jsonb not null default '{}',
    created_at timestamptz not null default now(),
    unique (session_id, key)
);

create table sandboxes (
    session_id   text primary key references sessions (id),
    epoch        bigint not null default 0,      -- fences everything a holder writes
    state        text not null default 'none'
                 check (state in ('none', 'starting', 'booting', 'ready', 'parking', 'parked', 'lost', 'failed')),
    reason       text not null default '',
    provider     text not null default '',
    box          text not null default '',
    ref          text not null default '',       -- what the next box starts from
    generation   bigint not null default 0,      -- the epoch that the box was started with; also its tag
    token_hash   bytea,
    boot         text not null default '',
    phase        text not null default '',
    holder       text not null default '',       -- the replica that holds the lease
    held_until   timestamptz,
    born_at      timestamptz,
    heartbeat_at timestamptz,
    busy         boolean not null default false,
    memory       bigint not null default 0,
    disk         bigint not null default 0,
    state_at     timestamptz not null default now(), -- of the last change of state
    claimed_at   timestamptz,                    -- when this generation's start began; its boot counts from here
    looked_at    timestamptz,                    -- when a silent box was last looked for
    failures     integer not null default 0,
    retry_at     timestamptz
);
create index sandboxes_live on sandboxes (state) where state in ('starting', 'booting', 'ready', 'parking', 'lost', 'failed');
create unique index sandboxes_token on sandboxes (token_hash) where token_hash is not null;

-- I6: effects, recorded before they are done. What goes to Slack is rendered
-- when it is delivered; cursor is the log position that the last delivery showed.
create table outbox (
    id          bigint generated always as identity primary key,
    surface     text not null check (surface in ('slack', 'forge')),
    kind        text not null,
    key         text not null unique,
    session_id  text references sessions (id),
    prompt_id   text,
    priority    integer not null,               -- smaller first
    body        jsonb not null default '{}',
    state       text not null default 'pending' check (state in ('pending', 'done', 'dead')),
    cursor      bigint not null default -1,
    wanted      bigint not null default 0,      -- the log position that has to be shown
    remote      jsonb not null default '{}',    -- where it landed, e.g. {"channel": …, "ts": …}
    unknown     boolean not null default false, -- the last try may have had its effect
    attempts    integer not null default 0,
    error       text not null default '',
    next_at     timestamptz not null default now(),
    created_at  timestamptz not null default now(),
    done_at     timestamptz
);
create index outbox_due on outbox (surface, priority, next_at) where state = 'pending' and wanted > cursor;
create index outbox_cards on outbox (session_id, prompt_id) where kind = 'card' and state = 'pending';

-- Calls of the agent's tools: a call that is repeated is not done again.
create table calls (
    session_id text not null references sessions (id),
    boot       text not null,
    id         text not null,
    prompt_id  text not null,
    tool       text not null,
    args       json not null,
    outbox_key text not null default '',   -- the effect it waits for
    result     text,
    error      boolean not null default false,
    created_at timestamptz not null default now(),
    primary key (session_id, boot, id)
);

-- Who looks at a session's page.
create table watchers (
    session_id text not null references sessions (id),
    person     uuid not null references people (id),
    until      timestamptz not null,
    primary key (session_id, person)
);

create table leases (
    name   text primary key,
    holder text not null,
    epoch  bigint not null default 1,
    until  timestamptz not null
);

create table logins (
    token_hash bytea primary key,
    person     uuid not null references people (id),
    created_at timestamptz not null default now(),
    seen_at    timestamptz not null default now(),
    expires_at timestamptz not null
);

create table usage (
    id         bigint generated always as identity primary key,
    session_id text not null references sessions (id),
    prompt_id  text,
    person     uuid references people (id),
    model      text not null,
    input      bigint not null,
    output     bigint not null,
    cache_read bigint not null,
    cache_write bigint not null,
    cost_usd   double precision not null,
    known      boolean not null,
    at         timestamptz not null default now()
);
create index usage_day on usage (at);
create index usage_session on usage (session_id);
create index usage_person on usage (person, at);
