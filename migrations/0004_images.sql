-- Images of repositories. A row is one build and, once that has succeeded, what
-- it left with the provider.
create table images (
    id          text primary key,              -- also the tag of the build's box
    repository  text not null references repositories (name),
    why         text not null,                 -- why it was wanted, for people
    state       text not null default 'queued'
                check (state in ('queued', 'building', 'saving', 'succeeded', 'failed')),
    reason      text not null default '',      -- why it failed
    warning     text not null default '',      -- what went wrong though it succeeded
    head        text not null default '',      -- of the default branch, as the code host said when it was wanted
    commit      text not null default '',      -- what is checked out in it
    fingerprint text not null default '',      -- of what else went into it
    log         text not null default '',
    log_cut     bigint not null default 0,     -- bytes that were left out at the log's beginning

    epoch       bigint not null default 0,     -- fences everything a builder writes; also a tag of the box
    attempts    integer not null default 0,
    not_before  timestamptz not null default now(),
    holder      text not null default '',      -- the replica that holds the lease
    held_until  timestamptz,
    token_hash  bytea unique,
    box         text not null default '',

    provider    text not null default '',
    ref         text not null default '',      -- the saved filesystem
    image       text not null default 'none' check (image in ('none', 'ready', 'removing', 'gone')),

    queued_at   timestamptz not null default now(),
    started_at  timestamptz,
    ended_at    timestamptz
);
create unique index images_one_build on images (repository) where state in ('queued', 'building', 'saving');
create index images_of_repository on images (repository, queued_at desc);
create index images_kept on images (repository) where image in ('ready', 'removing');

-- The boxes in which images were built: a builder that dies between a save and its
-- record leaves a filesystem of one of them that no image names.
create table image_boxes (
    box     text primary key,
    made_at timestamptz not null default now()
);

-- What is known of a repository's default branch, and who asked to look at it.
create table image_checks (
    repository text primary key references repositories (name),
    head       text not null default '',
    asked      boolean not null default true,   -- look as soon as possible
    checked_at timestamptz,
    error      text not null default ''         -- why the code host did not say it
);

create index sessions_of_repository on sessions (repository, updated_at); -- is it in use?

-- The image that a sandbox's last start began from; empty: none.
alter table sandboxes add column image text not null default '';
-- A boot from an image failed: until one succeeds they begin without.
alter table sandboxes add column without_image boolean not null default false;
