-- What people set for a repository or for all: variables, secrets, resources, tools.
-- The repository '' stands for all; what is set for a repository beats that. There is
-- no reference to repositories: settings stay while a repository is not installed.

create table variables (
    repository text not null,
    name       text not null,
    secret     boolean not null,
    outside    boolean not null default false, -- for headers that the control plane adds; no sandbox gets it
    value      text not null default '',   -- of a variable
    sealed     bytea,                      -- of a secret
    set_by     uuid not null references people (id),
    set_at     timestamptz not null default now(),
    primary key (repository, name),
    check (secret = (sealed is not null) and (not secret or value = '') and (secret or not outside))
);

-- Secrets that were replaced or removed: sandboxes that were started before still
-- have them, so that they are still scrubbed (I10). Forgotten after a while.
create table old_secrets (
    id         bigint generated always as identity primary key,
    repository text not null,
    name       text not null,
    sealed     bytea not null,
    ended_at   timestamptz not null default now()
);
create index old_secrets_repository on old_secrets (repository, ended_at);

-- Everything else, as sessions.Settings describes it.
create table repository_settings (
    repository text primary key,
    version    bigint not null default 1,  -- two people who change it at once do not overwrite each other
    body       jsonb not null default '{}'
);

-- Who changed what; names only, never values.
create table setting_changes (
    id         bigint generated always as identity primary key,
    repository text not null,
    what       text not null,              -- e.g. "set the secret NPM_TOKEN"
    person     uuid not null references people (id),
    at         timestamptz not null default now()
);
create index setting_changes_repository on setting_changes (repository, id desc);

-- What the supervisor found of secrets when it looked last before a save: empty if
-- nothing, otherwise what people are told. Nothing is saved that was not looked at.
alter table sandboxes add kept text not null default '';
alter table sandboxes add kept_at timestamptz;

-- When a push was refused last because of a secret in it; null once one is taken.
alter table sandboxes add withheld_at timestamptz;

-- What a box was started with, in seconds; null: as the configuration says. Settings
-- may change while it lives: they are those of the generation that is given.
alter table sandboxes add given bigint;
alter table sandboxes add prompt_seconds double precision;
alter table sandboxes add setup_seconds double precision;

-- Who may open a port of a session's sandbox. Each port has an origin of its own,
-- with a sign-in of its own that ends with the person's: a ticket is exchanged for it.
create table port_entries (
    token_hash bytea primary key,
    login      bytea not null references logins (token_hash) on delete cascade,
    session_id text not null references sessions (id),
    port       integer not null,
    ticket     boolean not null,           -- good once
    expires_at timestamptz not null
);
create index port_entries_login on port_entries (login);
alter table sandboxes add port_used_at timestamptz; -- when somebody was last seen at one; not to the second
