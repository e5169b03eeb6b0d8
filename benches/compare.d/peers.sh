# Programs to compare with: what this machine lacks, by apt; for the cold part, each in a directory of its own. Sourced by compare,
# which has `cache`, `rootless` and `say`.

# Newest first.
readonly suites=(sid trixie bookworm)
# Packages by a command that tells whether they are there.
# shellcheck disable=SC2154 # Keys are no variables.
readonly -A needed_cold=([bwrap]=bubblewrap [jq]=jq [mkfs.ext4]=e2fsprogs [mmdebstrap]=mmdebstrap [musl-gcc]=musl-tools [newuidmap]=uidmap [skopeo]=skopeo [time]=time)
# shellcheck disable=SC2154,SC2034 # The same; by name.
readonly -A needed_warm=([jq]=jq [musl-gcc]=musl-tools [skopeo]=skopeo)
# shellcheck disable=SC2154,SC2034
readonly -A peers_warm=([bwrap]=bubblewrap [busybox]=busybox-static [crun]=crun [dockerd]=docker.io [podman]=podman [runc]=runc [systemd-nspawn]=systemd-container)

# install_missing ARRAY: what is there already stays as it is.
install_missing() {
    local -n packages=$1
    local command missing=()
    for command in "${!packages[@]}"; do type -P "$command" >/dev/null || missing+=("${packages[$command]}"); done
    ((${#missing[@]})) || return 0
    # RUNLEVEL=1: no package starts a service.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >&2
}

# The mirror that this machine's own apt uses.
debian_mirror() {
    # shellcheck disable=SC2016 # apt's fields.
    apt-get indextargets --format '$(REPO_URI) $(COMPONENT) $(CODENAME)' 'Created-By: Packages' 'Origin: Debian' |
        awk '$2 == "main" && $3 !~ /-/ && !found++ { print $1 }'
}

# fetch_peer NAME: into $cache/peers, where it is absent if that cannot be.
fetch_peer() {
    local -r tree=$cache/peers/$(peer_tree "$1")
    # What leads to an ordinary user in there, and what maps the user's ranges.
    local -r packages=base-files,$1${rootless:+,mount,uidmap,util-linux}
    local suite mirror
    rm -rf --one-file-system "$tree.part"
    [[ ! -e $tree ]] || return 0
    mirror=$(debian_mirror)
    for suite in "${suites[@]}"; do
        # A mirror may stand still for longer than its lists are valid; they are signed all the same.
        if mmdebstrap --quiet --variant=extract --mode=root --aptopt='Acquire::Check-Valid-Until "false"' \
            --include="$packages" "$suite" "$tree.part" \
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$tree.log" 2>&1; then
            mv "$tree.part" "$tree"
            rm "$tree.log"
            say "fetched $1 from Debian $suite"
            return 0
        fi
        rm -rf --one-file-system "$tree.part"
        say "no $1 from Debian $suite: $(first_error "$tree.log")"
    done
}
