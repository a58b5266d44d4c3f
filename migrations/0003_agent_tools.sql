-- What the agent's tools make: artifacts with their data, questions, child sessions.

alter table artifacts drop constraint artifacts_kind_check;
alter table artifacts add constraint artifacts_kind_check
    check (kind in ('branch', 'pull_request', 'screenshot', 'image', 'file'));

-- The bytes that sandboxes sent. One without an artifact was not claimed by a
-- call yet, and is forgotten if none comes.
create table artifact_files (
    id         uuid primary key,
    session_id text not null references sessions (id),
    artifact   uuid unique references artifacts (id),
    name       text not null,
    mime       text not null,              -- as its first bytes say
    size       integer not null,           -- bytes
    data       bytea not null,
    created_at timestamptz not null default now(),
    gone_at    timestamptz                 -- since when data is deleted, with what was saved of the session
);
alter table artifact_files alter column data set storage external; -- pictures do not get smaller
create index artifact_files_session on artifact_files (session_id);
create index artifact_files_unclaimed on artifact_files (created_at) where artifact is null;

-- Links by which whoever has them sees a picture: for pull requests, whose
-- readers are not signed in here.
create table pictures (
    token      text primary key,
    artifact   uuid not null references artifacts (id),
    created_at timestamptz not null default now(),
    revoked_at timestamptz,
    revoked_by uuid references people (id)
);
create unique index pictures_good on pictures (artifact) where revoked_at is null;

create index calls_lately on calls (session_id, created_at);

-- What the agent asked people. Open until somebody asks for something in the
-- session, which is the answer.
create table questions (
    prompt_id     text primary key references prompts (id), -- that asked
    session_id    text not null references sessions (id),
    text          text not null,
    options       text[] not null default '{}',
    answer        text not null default '',   -- empty also if a newer question took its place
    answered_by   uuid references people (id),
    answer_prompt text references prompts (id),
    asked_at      timestamptz not null default now(),
    answered_at   timestamptz
);
create unique index questions_open on questions (session_id) where answered_at is null;
create index questions_answer on questions (answer_prompt) where answer_prompt is not null;

-- Child sessions: begun by an agent for the person who asked it.
alter table sessions add column parent text references sessions (id);
alter table sessions add column parent_prompt text references prompts (id); -- whose work it is part of
alter table sessions add column root text references sessions (id);         -- null: the session has no parent
alter table sessions add column depth integer not null default 0;           -- parents above it
create index sessions_parent on sessions (parent) where parent is not null;
create index sessions_root on sessions (root) where root is not null;

-- Ends of children's prompts that the parent has to be told.
create table reports (
    prompt_id    text primary key references prompts (id),
    parent       text not null references sessions (id),
    created_at   timestamptz not null default now(),
    delivered_at timestamptz
);
create index reports_due on reports (created_at) where delivered_at is null;
