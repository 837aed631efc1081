# `make` prints what there is to make.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
WORKFLOWCHECK := go.temporal.io/sdk/contrib/tools/workflowcheck@v0.6.0
FUZZTIME ?= 20s
# Arguments for the program, as in: make dev ARGS='--ports auto'
ARGS ?=

.PHONY: help
help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

.PHONY: build
build: ## build bin/reauth
	@[ -x bin/reauth ] || echo 'building bin/reauth (the first build takes a minute or two) ...'
	go build -o bin/reauth ./cmd/reauth

.PHONY: demo
demo: build ## bring one stale connection back on real parts, show each step, clean up
	./bin/reauth demo $(ARGS)

.PHONY: dev
dev: build ## run everything on this machine and stay; Ctrl-C stops it
	./bin/reauth dev $(ARGS)

.PHONY: test
test: temporal ## run every test, with the race detector
	go test -race -timeout 20m $(ARGS) ./...

.PHONY: temporal
temporal: # build the Temporal server for tests, unless there is one
	@command -v temporal >/dev/null || { \
		echo 'looking for the Temporal server (building it the first time takes some minutes) ...'; \
		go tool -modfile=tools.mod -n temporal >/dev/null; }

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, workflowcheck
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
		[ -z "$$unformatted" ] || { echo "gofmt would change:"; echo "$$unformatted"; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	go run $(WORKFLOWCHECK) ./...

# The folder with a copy of github.com/Finch-API/finch-api-go at v2.4.0, where
# the module proxy does not have it, as in: make finchsdk FINCH_API_GO=~/finch-api-go
FINCH_API_GO ?=
FINCH_MODULE := github.com/Finch-API/finch-api-go/v2

.PHONY: finchsdk
finchsdk: temporal ## test the module finchsdk, with Finch's official Go client
	@mod=$$(mktemp -d); trap 'rm -rf "$$mod"' EXIT; \
		cp finchsdk/go.mod finchsdk/go.sum "$$mod"; export GOFLAGS=-modfile="$$mod/go.mod"; cd finchsdk; \
		[ -z '$(FINCH_API_GO)' ] || go mod edit -replace '$(FINCH_MODULE)=$(abspath $(FINCH_API_GO))' "$$mod/go.mod"; \
		go get '$(FINCH_MODULE)@v2.4.0' || { \
			echo '$(FINCH_MODULE) cannot be had here, so nothing of finchsdk was tested.'; \
			echo 'With a copy of its repository: make finchsdk FINCH_API_GO=FOLDER'; exit 1; }; \
		go vet ./... && go test -race -timeout 20m $(ARGS) ./...

.PHONY: histories
histories: temporal ## record testdata/histories anew, from the workflows as they are now
	go test -count=1 -timeout 20m ./e2e -run '^TestRecordHistories$$' -record

.PHONY: screenshots
screenshots: temporal ## take the pictures in docs/images anew, with Chromium
	REAUTH_SCREENSHOTS='$(CURDIR)/docs/images' go test -count=1 -timeout 20m ./e2e -run '^TestScreenshots$$'

.PHONY: storm
storm: ## measure 100,000 reports of 1,000 stale connections
	go test -run '^$$' -bench Storm -benchtime 1x -timeout 30m ./starter ./web

.PHONY: import
import: ## import 100,000 rows with crashes in between, and measure it
	REAUTH_IMPORT_ROWS=100000 go test -count=1 -timeout 20m -v ./imports ./cmd/reauth/cli -run 'ManyRows'

.PHONY: fuzz
fuzz: ## run each fuzz test for FUZZTIME (20s)
	@grep -rlE --include='*_test.go' '^func Fuzz' . | while read -r file; do \
		for name in $$(grep -oE '^func Fuzz[A-Za-z0-9_]*' "$$file" | cut -d' ' -f2); do \
			echo "$$name in $$(dirname "$$file")"; \
			go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")"; \
		done; done
