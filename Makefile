# run    shows the product on this machine, with stand-ins for Slack, GitHub and the model
# test   all tests, with the race detector
# check  format, vet, staticcheck, layers, dead code, README's tables
# bench  the benchmarks, with a table at the end
# live-modal  the providers' suite against Modal itself, which costs money
# Each does all its own set-up.
.PHONY: run test check bench live-modal build dockerfile readme pictures

GO ?= go
export CGO_ENABLED ?= 0

run:
	@scripts/setup run
	@[ -e bin/openinspect ] || echo "building: a minute or two, the first time"
	@$(MAKE) --no-print-directory build
	@exec bin/openinspect practice $(ARGS)

# Without the commit in it: asking git for it fails in a checkout that belongs to another account.
build:
	@command -v $(GO) >/dev/null || { echo "go is missing: install Go 1.26 or newer first (see README)" >&2; exit 1; }
	@$(GO) build -trimpath -buildvcs=false -o bin/openinspect .

test: export CGO_ENABLED = 1
test:
	@scripts/setup test
	$(GO) vet ./...
	$(GO) test -race -timeout 25m ./...

check:
	@scripts/setup test
	@bad=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$bad" ] || { echo "not gofmt-ed:"; echo "$$bad"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags live ./sandbox/modal
	$(GO) tool staticcheck ./...
	@dead=$$($(GO) tool deadcode -test ./...); [ -z "$$dead" ] || { echo "dead code:"; echo "$$dead"; exit 1; }
	$(GO) test -run 'TestPackagesImportOnlyWhatTheDesignAllows|TestReadme|TestTheDockerfile' . ./sandbox/image
	@echo "check: ok"

bench:
	@scripts/setup test
	@scripts/bench

live-modal:
	@[ -n "$$MODAL_TOKEN_ID" ] && [ -n "$$MODAL_TOKEN_SECRET" ] || { \
	  echo "live-modal: set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET to a token of a workspace of Modal's (and MODAL_ENVIRONMENT, if it is not the default one)" >&2; exit 1; }
	$(GO) test -count=1 -timeout 30m -tags live -v -run '^TestLive$$' ./sandbox/modal

# dockerfile writes sandbox/image/Dockerfile, of the base image of sandboxes.
dockerfile:
	@$(GO) test -count=1 -run TestTheDockerfile ./sandbox/image -update

# readme writes the tables, pictures the screenshots, that README shows.
readme: build
	@$(GO) test -count=1 -run TestReadme -update .

pictures:
	@scripts/setup test
	@$(GO) test -count=1 -run TestAPersonDoesTheMainJobInABrowser -update .
