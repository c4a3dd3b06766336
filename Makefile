# vhost-user-xdp: the commands of every day. `make help` explains them.
#
# The work is done by scripts that run by themselves too; see docs/contributing.md.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

# For `make install`, which takes what `make build` has built.
PREFIX ?= /usr
DESTDIR ?=

# For `make fuzz`: which fuzzer, or all, and for how long each.
TARGET ?= all
SECONDS ?= 60

.PHONY: build install test check lint gates features unit-tests release-tests test-system system-tests soak fuzz fuzz-corpus thread-sanitizer demo bench bench-quick bench-full clean help

## build          the daemon, optimised: .build/release/vhost-user-xdp
build:
	Tests/Gates/stages.sh step build

## install        binary, units, manual and QEMU's description, below DESTDIR and PREFIX (/usr)
install:
	install -D -m 755 .build/release/vhost-user-xdp $(DESTDIR)$(PREFIX)/bin/vhost-user-xdp
	install -d $(DESTDIR)$(PREFIX)/share/man/man8 $(DESTDIR)$(PREFIX)/lib/systemd/system \
	  $(DESTDIR)$(PREFIX)/lib/sysusers.d $(DESTDIR)$(PREFIX)/lib/tmpfiles.d \
	  $(DESTDIR)$(PREFIX)/share/qemu/vhost-user \
	  $(DESTDIR)/etc/vhost-user-xdp
	for command in '' grant capabilities; do \
	  COLUMNS=80 .build/release/vhost-user-xdp $$command --help; \
	done | \
	  awk -v version="$$(.build/release/vhost-user-xdp --version | cut -d ' ' -f 2)" \
	  -f docs/manual.awk | \
	  install -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/man/man8/vhost-user-xdp.8
	sed 's|/usr/bin/|$(PREFIX)/bin/|' systemd/vhost-user-xdp@.service | \
	  install -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/lib/systemd/system/vhost-user-xdp@.service
	install -m 644 systemd/vhost-user-xdp@.socket $(DESTDIR)$(PREFIX)/lib/systemd/system/
	install -m 644 systemd/vhost-user-xdp.tmpfiles \
	  $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/vhost-user-xdp.conf
	install -m 644 systemd/vhost-user-xdp.sysusers \
	  $(DESTDIR)$(PREFIX)/lib/sysusers.d/vhost-user-xdp.conf
	sed 's|/usr/bin/|$(PREFIX)/bin/|' systemd/50-vhost-user-xdp.json | \
	  install -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/qemu/vhost-user/50-vhost-user-xdp.json

## test           everything; as root, for network namespaces and AF_XDP
test:
	Tests/Gates/stages.sh all

## check          what needs no root: lint, gates, unit tests
check:
	Tests/Gates/stages.sh check

## lint           format, file lengths, no machine paths, shell scripts
lint:
	Tests/Gates/lint.sh

## gates          hot functions, uses of unsafe, no Foundation; builds first
gates:
	Tests/Gates/stages.sh gates

## features       writes the tables of docs/features.md from the feature table in the code
features:
	Tests/Gates/features.sh --write

## unit-tests     in debug, one by one; FILTER=REGEX runs the tests whose name matches
unit-tests:
	swift test --disable-xctest --skip SystemTests --no-parallel $(if $(FILTER),--filter '$(FILTER)')

## release-tests  the same optimised, with the tests that count retains and allocations
release-tests:
	Tests/Gates/stages.sh release-tests

## test-system    the slow ones, against QEMU and DPDK, as root; FILTER=REGEX runs those that match
test-system system-tests:
	FILTER='$(FILTER)' Tests/Gates/stages.sh system-tests

## fuzz           TARGET=all or the name of a folder Tests/Fuzz/*-fuzz; SECONDS=60 for each
fuzz:
	Tests/Gates/fuzz.sh $(TARGET) $(SECONDS)

## fuzz-corpus    writes Tests/Fuzz/corpus anew from what the fuzzers have found since
fuzz-corpus:
	Tests/Gates/fuzz.sh corpus

## thread-sanitizer   tests of several threads, with ThreadSanitizer
thread-sanitizer:
	Tests/Gates/stages.sh step thread-sanitizer

## soak           two guests, mixed load, random faults; as root; SECONDS=1800
soak:
	Tests/System/soak.sh --seconds=$(if $(filter file,$(origin SECONDS)),1800,$(SECONDS)) $(if $(SEED),--seed=$(SEED))

## demo           a Linux guest under QEMU talks to another host; as root
demo:
	Tests/System/demo.sh

## bench          against dpdk-testpmd, into docs/performance.md; 20 minutes, as root
bench:
	Tests/Bench/bench.sh --document

## bench-quick    the main ratios only, printed; five minutes
bench-quick:
	Tests/Bench/bench.sh --set=quick

## bench-full     every size, ring format and kind of buffer, into docs/performance.md; 1.5 hours
bench-full:
	Tests/Bench/bench.sh --set=full --document

## clean          removes all that was built; .lab, the downloads, only with ALL=1
clean:
	rm -rf .build .build-* $(if $(ALL),.lab)

## help           this
help:
	@sed -n 's/^## /  make /p' Makefile
