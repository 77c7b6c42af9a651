#!/usr/bin/env bash
# The whole suite: format, lints, arrows, documentation, unit, property, model, fuzz and simulation tests, then the
# end-to-end tests on real packets between network namespaces, then some deliberate bugs that the suite must find.
#
# Exits non-zero on any failure. Needs root and a kernel with AF_XDP for the end-to-end part, which never skips by
# itself: PODGATE_SKIP_E2E=1 asks for that.
set -euo pipefail
cd "$(dirname "$0")/.."
# Everything is built once here: what only a second build could use is gigabytes of files.
export CARGO_INCREMENTAL="${CARGO_INCREMENTAL:-0}"
started=$(date +%s)
stage=""
stage() {
    stage="$*"
    printf '\n==> [%4ds] %s\n' "$(($(date +%s) - started))" "$stage"
}
trap 'status=$?; if [ $status -ne 0 ]; then printf "\nFAILED after %ds in stage: %s\n" "$(($(date +%s) - started))" "$stage" >&2; fi' EXIT

stage "set-up: what this machine lacks"
./scripts/setup test
stage "format"
cargo fmt --all --check
stage "arrows between crates, unsafe only where it may be"
./scripts/check-arrows
./scripts/check-unsafe
stage "report and plot of the comparison with peers"
bench/peers/run --selftest
stage "build (the first one compiles every dependency)"
cargo build --workspace --all-targets --quiet
stage "lints"
cargo clippy --workspace --all-targets --quiet -- -D warnings
stage "documentation without warnings"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
stage "tests of the crates: unit, property, model, fuzz, simulation, sockets"
cargo test --workspace --exclude podgate-tests --quiet
stage "tests of the whole: oracle, conformance, command line, real packets"
cargo test --package podgate-tests --quiet -- --test-threads=1
# Four of the compiler's deliberate bugs, to hold that the script and the tests still find them. All of them take as long as
# the rest together: tests/mutants/run.sh without arguments, before a release and after any change of the compiler.
stage "deliberate bugs: a sample must be found (tests/mutants/run.sh tries all)"
./tests/mutants/run.sh a3-first-rule b7-left-out c11-no-peers i-second-claimants
printf '\nOK: the whole suite passed in %ds.\n' "$(($(date +%s) - started))"
