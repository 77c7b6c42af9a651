#!/bin/sh
# Puts deliberate bugs into the compiler, the tables, the decoder and explain, one at a time, and fails if the test
# that each patch names does not find it, or if a patch no longer applies or compiles.
#
#   tests/mutants/run.sh             all
#   tests/mutants/run.sh d21 f       those whose names begin so
#
# Groups: a to f are sections of the semantics, i what goes wrong only when tables follow changes, t the tables and explain.
#
# Works on a copy with a build folder of its own (both under the target folder), so the source and its build are never
# touched, whatever interrupts it; outside packages that are built already are shared. A patch begins with what
# is wrong and a line `Found by: TEST NAME`: a crate (control, dataplane) for its unit tests, or else an integration test,
# and the name of the test in it.
set -eu
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-$PWD/target}
work=$target/mutants
copy=$work/source
mkdir -p "$work"
exec 9>"$work/lock"
flock -n 9 || { echo "mutants: another run uses $work" >&2; exit 2; }
trap 'rm -rf "$copy"' EXIT
trap 'exit 130' INT TERM HUP

# Tracked files and new ones, as they are now. Fresh times, so that nothing of the last run is taken for built.
rm -rf "$copy"
mkdir -p "$copy"
git ls-files -z --cached --others --exclude-standard |
    xargs -0 sh -c 'for file; do [ ! -e "$file" ] || printf "%s\0" "$file"; done' sh |
    tar --null --files-from=- --create --file=- | tar --extract --touch --file=- --directory="$copy"
# Libraries of outside packages are linked hard, as nothing writes into them again: a copy of everything would fill a small
# disk. What is our own is built anew.
if [ ! -d "$work/build" ] && [ -d "$target/debug/deps" ]; then
    mkdir -p "$work/build/debug/deps"
    for part in build .fingerprint; do cp -a "$target/debug/$part" "$work/build/debug/"; done
    find "$target/debug/deps" -type f \( -name '*.rlib' -o -name '*.rmeta' -o -name '*.so' \) \
        ! -name 'libpodgate*' ! -name 'libaf_xdp*' -print0 | xargs -0 ln -t "$work/build/debug/deps"
fi
cd "$copy"
export CARGO_TARGET_DIR="$work/build" CARGO_TERM_COLOR=never
worlds=${PODGATE_WORLDS:-500}
# Every mutant is built anew: what is quickly built is quickly found, though the tests are slower.
export CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_OPT_LEVEL=0 PODGATE_CHANGES="${PODGATE_CHANGES:-20000}"
log=$work/log

chosen=$(for patch in tests/mutants/*.patch; do
    name=$(basename "$patch" .patch)
    [ $# -gt 0 ] || echo "$name"
    for prefix; do case $name in "$prefix"*) echo "$name" ;; esac; done
done | sort -u)
[ -n "$chosen" ] || { echo "mutants: none begins so: $*" >&2; exit 2; }
count=$(echo "$chosen" | wc -l)
found_by() { sed -n 's/^Found by: //p' "tests/mutants/$1.patch"; }
target_of() { # TEST
    case $1 in
    control | dataplane) echo "--package podgate-$1 --lib" ;;
    *) echo "--package podgate-tests --test $1" ;;
    esac
}
run() { # TEST NAME
    # A crowd is as much work as a hundred other clusters.
    case $2 in *crowd) unset PODGATE_WORLDS ;; *) export PODGATE_WORLDS="$worlds" ;; esac
    timeout 300 cargo test --quiet $(target_of "$1") -- --exact "$2" >"$log" 2>&1
}

echo "mutants: $count patches; first the tests that must find them, as the source is"
for name in $chosen; do found_by "$name"; done | sort -u >"$work/tests"
while read -r test name; do
    # Building may take its time, a test may not.
    cargo test --quiet $(target_of "$test") --no-run </dev/null
    run "$test" "$name" </dev/null || { tail -30 "$log"; echo "mutants: $test $name fails without any patch"; exit 1; }
    # A name that no test has finds nothing.
    grep -q '^running 1 test' "$log" || { echo "mutants: there is no test $test $name"; exit 1; }
done <"$work/tests"

failed=0
for name in $chosen; do
    # Neither of the two holds blanks.
    set -- $(found_by "$name")
    file=tests/mutants/$name.patch
    if ! patch --quiet --strip=1 --fuzz=0 --dry-run <"$file" >"$log" 2>&1; then
        echo "STALE     $name: does not apply any more"; failed=1; continue
    fi
    patch --quiet --strip=1 --fuzz=0 <"$file"
    if ! cargo test --quiet $(target_of "$1") --no-run >"$log" 2>&1; then
        grep -m3 '^error' "$log" || true
        echo "STALE     $name: does not compile any more"; failed=1
    else
        status=0
        run "$1" "$2" || status=$?
        case $status in
        0) echo "SURVIVED  $name: $(head -1 "$file")"; failed=1 ;;
        124) echo "ENDLESS   $name: the test neither passes nor fails in time"; failed=1 ;;
        *) echo "found     $name" ;;
        esac
    fi
    patch --quiet --strip=1 --fuzz=0 --reverse <"$file"
done
[ "$failed" = 0 ] && echo "mutants: all $count found"
exit "$failed"
