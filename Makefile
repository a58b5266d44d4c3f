# run    shows the product on this machine, with stand-ins for Slack, GitHub and the model
# test   all tests, with the race detector
# check  format, vet, staticcheck, layers, dead code, README's tables
# bench  the benchmarks, with a table at the end
# Each does all its own set-up.
.PHONY: run test check bench build readme pictures

GO ?= go
export CGO_ENABLED ?= 0

run: build
	@scripts/setup run
	@exec bin/openinspect practice $(ARGS)

build:
	@command -v $(GO) >/dev/null || { echo "go is missing: install Go 1.26 or newer first (see README)" >&2; exit 1; }
	@$(GO) build -trimpath -o bin/openinspect .

test: export CGO_ENABLED = 1
test:
	@scripts/setup test
	$(GO) vet ./...
	$(GO) test -race -timeout 25m ./...

check:
	@scripts/setup test
	@bad=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$bad" ] || { echo "not gofmt-ed:"; echo "$$bad"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@dead=$$($(GO) tool deadcode -test ./...); [ -z "$$dead" ] || { echo "dead code:"; echo "$$dead"; exit 1; }
	$(GO) test -run 'TestPackagesImportOnlyWhatTheDesignAllows|TestReadme' .
	@echo "check: ok"

bench:
	@scripts/setup test
	@scripts/bench

readme: build
	@$(GO) test -count=1 -run TestReadme -update .
