# A fresh file system for each run, and what is kept of it. Sourced by cold.

# What a run of any contender may take before it is given up.
readonly patience=900

fresh_file_system() {
    truncate --size "$disk_bytes" "$scratch/disk"
    # Nothing is left for the kernel to initialise while somebody is measured.
    mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0,nodiscard "$scratch/disk"
    mount -o loop "$scratch/disk" "$fs"
    local tree
    for tree in "$trees"/*/; do [[ ! -d $tree ]] || mount --bind "$fs" "${tree%/}$fs"; done
    if [[ $rootless ]]; then install --directory --owner "$user_id" --group "$user_id" "$fs/home"; fi
    sync
    echo 3 >/proc/sys/vm/drop_caches
    # What measures is not measured: that it is read from a disk.
    command time --quiet --output /dev/null timeout 1 true
}

remove_file_system() {
    local tree
    for tree in "$trees"/*/; do [[ ! -d $tree ]] || umount --recursive "${tree%/}$fs"; done
    umount --recursive "$fs"
    rm "$scratch/disk"
}

# processor_seconds PID: used so far, its children's included.
processor_seconds() { awk -v ticks="$(getconf CLK_TCK)" '{ print ($14 + $15 + $16 + $17) / ticks }' "/proc/$1/stat"; }

# figure NAME VALUE: something else that this round told, in numbers.
figure() {
    jq --null-input --compact-output --arg name "$1" "{name: \$name, round: $round, value: ($2)}" >>"$noted"
}

# measure LINE COMMAND...: one line of the result, or a gap; with a daemon, what that used as well.
measure() {
    local -r line=$1
    shift
    local before=0 after=0 since until wall user system kib used inodes
    if [[ -n $daemon ]]; then
        before=$(processor_seconds "$daemon")
        # The peak starts anew.
        echo 5 >"/proc/$daemon/clear_refs"
    fi
    # time(1) itself tells hundredths of a second only.
    since=${EPOCHREALTIME/[.,]/}
    if ! command time --quiet --format '%U %S %M' --output "$scratch/time" timeout "$patience" "$@" >"$scratch/log" 2>&1 </dev/null; then
        gaps[$line]=$(tail -1 "$scratch/log")
        return 1
    fi
    until=${EPOCHREALTIME/[.,]/}
    wall=$(awk -v microseconds=$((until - since)) 'BEGIN { printf "%.6f", microseconds / 1000000 }')
    read -r user system kib <"$scratch/time"
    if [[ -n $daemon ]]; then
        after=$(processor_seconds "$daemon")
        kib=$(awk '$1 == "VmHWM:" { print $2 }' "/proc/$daemon/status")
    fi
    sync --file-system "$fs"
    read -r used inodes < <(df --block-size=1 --output=used,iused "$fs" | tail -1)
    jq --null-input --compact-output --arg line "$line" \
        "{line: \$line, round: $round, wall_s: $wall, cpu_s: ($user + $system + $after - $before), rss_kib: $kib, stored_bytes: $used, inodes: $inodes}" \
        >>"$runs"
}
