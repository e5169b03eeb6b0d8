# Starts as an ordinary user, for a contender of the cold part: the store is there, and the user as well. Sourced by cold.

# Medians and the like are of all runs of all rounds.
run_warm() {
    local id line microseconds
    if ! id=$("${layermount[@]}" -q pull "oci:$blobs/gzip:$tag" 2>"$scratch/log") ||
        ! "${layermount[@]}" -q unpack "$id" "$fs/home/tree" >"$scratch/log" 2>&1; then
        gaps[warm]=$(tail -1 "$scratch/log")
        return 1
    fi
    # One shell of the user's starts them all, each as often as the others, and what it starts first is not measured.
    # shellcheck disable=SC2016 # The inner shell's.
    if ! "${as_user[@]}" bash -euc '
        layermount=$1 store=$2 image=$3 id=$4 tree=$5 single=$6 runs=$7
        single() { "$layermount" --store "$store" run --userns "$single" -u 0 --entrypoint /bin/true "$image"; }
        ranges() { "$layermount" --store "$store" run -u 0 --entrypoint /bin/true "$image"; }
        bwrap() {
            command bwrap --unshare-user --unshare-pid --unshare-ipc --unshare-uts --bind "$tree" / --proc /proc --dev /dev /bin/true
        }
        for ((run = 0; run <= runs; run++)); do
            for line in single ranges bwrap; do
                since=${EPOCHREALTIME/[.,]/}
                "$line" >/dev/null 2>&1 </dev/null || { "$line"; exit 1; }
                until=${EPOCHREALTIME/[.,]/}
                ((run == 0)) || echo "$line $((until - since))"
            done
            image=$id
        done' warm "$scratch/layermount" "$fs/home/store" "oci:$blobs/gzip:$tag" "$id" "$fs/home/tree" "map:0:$user_id:1" "$warm_runs" \
        >"$scratch/warm" 2>"$scratch/log" </dev/null; then
        gaps[warm]=$(tail -1 "$scratch/log")
        return 1
    fi
    while read -r line microseconds; do
        printf '{"name":"warm-%s","round":%d,"value":%s}\n' "$line" "$round" "$(awk -v us="$microseconds" 'BEGIN { print us / 1000 }')"
    done <"$scratch/warm" >>"$noted"
}
