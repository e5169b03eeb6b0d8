# One function for each contender. Sourced by cold.

readonly layermount=("${as_user[@]}" "$scratch/layermount" --store "$fs/${rootless:+home/}store")

run_layermount() {
    measure layermount "${layermount[@]}" pull "oci:$blobs/gzip:$tag" || return
    [[ -z $rootless ]] || return 0
    note_index
    note_prune
}

# What the files of the store have beside the archives, and the archives.
note_index() {
    local -a records
    mapfile -t records < <(compgen -G "$fs/store/layers/erofs/*/layer.json")
    if ((${#records[@]} == 0)); then
        gaps[indexes]='layermount pull made no EROFS files here; with --backing erofs it says why'
        return
    fi
    figure index_bytes "$(jq --slurp 'map(.file.length - .file.tar_size) | add' "${records[@]}")"
    figure archive_bytes "$(jq --slurp 'map(.file.tar_size) | add' "${records[@]}")"
}

# The last that is done with a store.
note_prune() {
    local since until
    # Everything is written by now.
    find "$fs/store" -type f -exec cat {} + >/dev/null
    since=${EPOCHREALTIME/[.,]/}
    if ! "${layermount[@]}" store prune --all >"$scratch/log" 2>&1; then
        gaps[prune]=$(tail -1 "$scratch/log")
        return
    fi
    until=${EPOCHREALTIME/[.,]/}
    figure prune_ms "$((until - since)) / 1000"
}

run_layermount-dir() { measure layermount-dir "${layermount[@]}" pull --backing dir "oci:$blobs/gzip:$tag"; }
run_layermount-zstd() { measure layermount-zstd "${layermount[@]}" pull "oci:$blobs/zstd:$tag"; }
run_layermount-plain() { measure layermount-plain "${layermount[@]}" pull "oci:$blobs/plain:$tag"; }

run_layermount-run() {
    measure layermount-run "${layermount[@]}" --verbose --log-format json run --entrypoint /bin/true "oci:$blobs/gzip:$tag" || return
    # Pulls differ more than what comes after them takes, so this is what the same process says of its own. Each layer is a phase,
    # and then all of them together.
    figure pull_in_run_ms "$(jq --slurp '. as $said | ["resolve", "layers"] | map(. as $phase | [$said[] | select(.phase == $phase)] | last.elapsed_ms) | add' "$scratch/log")"
}

run_floor() { measure floor "$scratch/inflate-hash-write" "oci:$blobs/gzip:$tag" "$fs"; }

run_tar() {
    # shellcheck disable=SC2016 # The inner shell's parameters.
    measure tar bash -euc 'fs=$1; shift; for blob; do mkdir "$fs/$#"; tar xzf "$blob" -C "$fs/$#"; shift; done' \
        tar "$fs" "${layer_blobs[@]}"
}

run_umoci() {
    local inside
    in_tree umoci
    measure umoci "${inside[@]}" umoci unpack ${rootless:+--rootless} --image "$blobs/gzip:$tag" "$fs/${rootless:+home/}bundle"
}

run_skopeo() {
    measure skopeo "${chroot[@]}" "$trees/skopeo" skopeo --insecure-policy --tmpdir "$fs" copy --quiet \
        "oci:$blobs/gzip:$tag" "containers-storage:[overlay@$fs/storage+$fs/run]bench"
}

run_podman() {
    local -r home=$fs${rootless:+/home}
    local inside status=0 pause
    in_tree podman
    # An owner beyond the ranges is nobody's to layermount, and an error to podman, unless it is told to leave the file to the user.
    measure podman "${inside[@]}" podman --root "$home/storage" --runroot "$home/run" --storage-driver overlay \
        ${rootless:+--storage-opt overlay.ignore_chown_errors=true} \
        pull --quiet "oci:$blobs/gzip:$tag" || status=1
    # It keeps its user namespace by a process, which would keep the file system.
    for pause in "$home"/libpod/tmp/pause.pid "$home"/run/libpod/tmp/pause.pid; do
        [[ ! -s $pause ]] || kill -KILL "$(<"$pause")" 2>/dev/null || true
    done
    return "$status"
}

run_containerd() {
    local -r address=$fs/containerd.sock log=$scratch/containerd.log
    local -r ctr=("${chroot[@]}" "$trees/containerd" ctr --address "$address")
    local attempt status=1
    # `exec`, so that the process is containerd itself.
    (exec "${chroot[@]}" "$trees/containerd" containerd --root "$fs/root" --state "$fs/state" --address "$address") >"$log" 2>&1 &
    daemon=$!
    for ((attempt = 0; attempt < 300; attempt++)); do
        if "${ctr[@]}" version >/dev/null 2>&1; then status=0; break; fi
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.1
    done
    if ((status)); then
        gaps[containerd-unpack]="containerd did not come up: $(tail -1 "$log")"
    else
        measure containerd-import "${ctr[@]}" images import --no-unpack --base-name bench "$blobs/image.tar" &&
            measure containerd-unpack "${ctr[@]}" snapshots unpack "$manifest" || status=1
    fi
    kill "$daemon" 2>/dev/null || true
    wait "$daemon" || true
    daemon=''
    return "$status"
}
