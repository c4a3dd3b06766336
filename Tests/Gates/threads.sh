#!/usr/bin/env bash
# Runs the tests that have several threads in one process with ThreadSanitizer: mailboxes, workers, rings
# between a driver's thread and a device's, a guest that rewrites what is being read.
#
# Left out is what says nothing about threads or cannot run so: tests that cut files of mapped memory or
# miss pages (a fault inside an atomic access stops the sanitizer for ever, which holds a lock meanwhile),
# that count instructions or time, and that fork. `thread-suppressions` says what is reported and is no race.
set -euo pipefail

cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."
readonly scratch=.build-tsan
readonly suites='ThreadTests|EpollTests|WakeUpTests|NetDeviceTests|WorkerTests|MultiqueueTests|ControlQueueTests|ConfigurationSpaceTests|GuestOffloadTests|IommuTests|LoggingTests|PollingTests|HostileGuestTests'
readonly skipped='WakeUpTests/congestion|WorkerTests/fewDescriptors'

export ONLY_TESTS='LinuxTests VirtqueueTests VirtioNetTests'
swift build --build-tests --sanitize=thread --scratch-path "$scratch"
TSAN_OPTIONS="suppressions=$PWD/Tests/Gates/thread-suppressions exitcode=66 ${TSAN_OPTIONS:-}" \
  swift test --skip-build --sanitize=thread --scratch-path "$scratch" --disable-xctest \
  --filter "$suites" --skip "$skipped"
