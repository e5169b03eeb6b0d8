# Whoever runs what is measured, where: a user, and a root directory for each peer. Sourced by cold.

# What runs a command in the directory that follows, where blobs and file system have the same paths.
readonly chroot=(env --ignore-environment PATH=/usr/sbin:/usr/bin HOME=/root "TMPDIR=$fs" chroot)

# Whoever runs what is measured. With --rootless there is such a user as long as this mount namespace.
readonly user_name=compare user_id=54321 first_subordinate=1000000000
users_environment=() users_ids=()
if [[ $rootless ]]; then
    users_environment=(env --ignore-environment PATH=/usr/sbin:/usr/bin:/sbin:/bin "HOME=$fs/home" "XDG_RUNTIME_DIR=$fs/home" "TMPDIR=$fs/home")
    users_ids=(setpriv --reuid "$user_id" --regid "$user_id" --clear-groups --)
fi
readonly users_environment users_ids as_user=("${users_environment[@]}" "${users_ids[@]}")

# The files that say who the user is, and what is granted.
readonly user_files=(/etc/passwd /etc/group /etc/subuid /etc/subgid)

make_user() {
    mkdir "$scratch/etc"
    printf '%s\n' root:x:0:0::/root:/bin/sh "$user_name:x:$user_id:$user_id::$fs/home:/bin/sh" >"$scratch/etc/passwd"
    printf '%s\n' root:x:0: "$user_name:x:$user_id:" >"$scratch/etc/group"
    echo "$user_name:$first_subordinate:65536" | tee "$scratch/etc/subuid" >"$scratch/etc/subgid"
    cover_user_files ''
    chown --recursive "$user_id:$user_id" "$blobs"
}

# cover_user_files TREE
cover_user_files() {
    local file
    for file in "${user_files[@]}"; do
        [[ -e $1$file ]] || : >"$1$file"
        mount --bind "$scratch$file" "$1$file"
    done
}

# in_tree NAME: what runs a command in a peer's tree, in the array `inside`.
in_tree() {
    local -r tree=$trees/$(peer_tree "$1")
    if [[ $rootless ]]; then
        # From within a chroot nobody makes user namespaces.
        # shellcheck disable=SC2016 # The inner shell's parameters.
        inside=("${users_environment[@]}" unshare --mount --propagation private
            sh -euc 'cd "$0"; pivot_root . .; umount --lazy .; exec "$@"' "$tree" "${users_ids[@]}")
    else
        inside=("${chroot[@]}" "$tree")
    fi
}

# No pipe: whoever writes more lines would be killed by it.
first_line() {
    local line=''
    read -r line < <("$@" 2>/dev/null) || true
    echo "$line"
}

lay_out_peer() {
    local -r tree=$trees/$(peer_tree "$1")
    cp --archive "$cache/peers/$(peer_tree "$1")" "$tree"
    # A mount point of its own: containers-storage makes its root private before it enters a layer.
    mount --bind "$tree" "$tree"
    mkdir -p "$tree$fs" "$tree$blobs"
    mount --bind "$blobs" "$tree$blobs"
    mount -t proc proc "$tree/proc"
    mkdir -p "$tree/sys"
    # Podman looks at cgroups even where it runs nothing.
    mount --rbind /sys "$tree/sys"
    mount --rbind /dev "$tree/dev"
    if [[ $rootless ]]; then cover_user_files "$tree"; fi
    versions[$1]=$(first_line "${chroot[@]}" "$tree" "$1" --version)
}
