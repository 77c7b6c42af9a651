#!/usr/bin/env bash
# Builds Podgate and shows it: a lab of pods on this machine, real connections beside what is expected of them.
#
#   ./scripts/lab.sh                               the demo: builds, shows, removes everything again
#   ./scripts/lab.sh up -f config/examples/shop    any other `podgate lab` command
#   ./scripts/lab.sh up --with-test-api            builds the test API server too
#
# Installs what a bare Debian 12 machine with a Rust toolchain lacks. Exit 0: as expected; 1: not; 2: it says in one
# line what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v cargo >/dev/null 2>&1 || PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

./scripts/setup lab
printf 'building podgate (the first time takes a few minutes)\n' >&2
cargo build --release --package podgate-control --bin podgate ||
    { printf 'podgate: the build failed; the compiler'"'"'s messages are above\n' >&2; exit 2; }
case " $* " in *" --with-test-api "*)
    cargo build --release --package podgate-tests --bin podgate-test-api ||
        { printf 'podgate: the test API server does not build; the compiler'"'"'s messages are above\n' >&2; exit 2; } ;;
esac
podgate="${CARGO_TARGET_DIR:-target}/release/podgate"

# In this process's place, so that whoever ends the script ends the demo, and the demo's lab goes with it.
if [ $# -eq 0 ]; then
    exec "$podgate" lab demo
fi
exec "$podgate" lab "$@"
