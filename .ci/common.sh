# Shared by the scripts of this folder, which source it. Afterwards the repository is the current folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# A CI build needs no debug information, and builds nothing twice.
export CARGO_INCREMENTAL=0
export CARGO_PROFILE_DEV_DEBUG=line-tables-only
export CARGO_PROFILE_TEST_DEBUG=line-tables-only
export CARGO_NET_RETRY=5

current='setting up'
step() {
    current=$1
    printf '\n==> %s (%ds)\n' "$current" "$SECONDS"
}

# A script that starts something says here how it ends. What it gives is a failure of the script if there was none before.
clean_up() { :; }

finish() {
    local status=$?
    clean_up || status=$((status == 0 ? 1 : status))
    ((status == 0)) || printf '\n==> FAILED: %s (exit %d)\n' "$current" "$status" >&2
    exit "$status"
}
trap finish EXIT
