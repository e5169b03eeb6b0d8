# What both sides of the namespaces use.

fail() { echo "compare: $1" >&2; exit "${2:-1}"; }
say() { printf 'compare: %4ds  %s\n' "$SECONDS" "$*" >&2; }

takes_part() { [[ " ${contenders[*]} " = *" $1 "* ]]; }

first_error() { sed -n '/^E: /{p;q}' "$1"; }

# peer_tree NAME: where it lies below a directory of peers.
peer_tree() { echo "${rootless:+rootless-}$1"; }
