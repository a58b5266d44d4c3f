// Package image holds what goes into the filesystem that a box starts from.
//
// The base image is defined once, in base.go, as a Recipe: a provider that builds
// images gets its commands; the Dockerfile beside this file is generated from it;
// and Missing says what of its tools this machine lacks, of which local sandboxes
// see the /usr. No command names a host: apt, pip, uv, npm, go and playwright know
// themselves where they fetch from, and may be told otherwise by whoever builds.
//
// OpenCode is one pinned release, fetched as the vendor publishes it and checked
// against a checksum that is part of this source; on this machine it is put where
// every later start finds it without a network.
//
// Images of repositories are made from the base image by the engine (package
// sessions) and the supervisor.
package image
