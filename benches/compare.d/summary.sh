# What came of the cold part, as JSON. Sourced by cold.

# What is promised. `ratios`: what the one line may take at most, as a share of the time of the other.
targets() {
    if [[ $rootless ]]; then
        echo '{"ratios": {"layermount": {"umoci": 0.28, "podman": 0.3}}, "warm": 0.9}'
        return
    fi
    if [[ $small ]]; then
        echo '{"ratios": {}, "directories": 3}'
        return
    fi
    echo '{
        "ratios": {
            "layermount": {
                "umoci": 0.25, "containerd-unpack": 0.25, "containerd-both": 0.16, "skopeo": 0.18, "podman": 0.18,
                "tar": 0.45, "floor": 1.2
            },
            "layermount-dir": {"umoci": 0.36, "containerd-unpack": 0.36, "skopeo": 0.27, "podman": 0.27, "tar": 0.7}
        },
        "index_share": 0.015, "prune_ms": 20, "after_pull_ms": 30
    }'
}

summarize() {
    local name
    local -a named=()
    for name in "${!versions[@]}"; do named+=(--arg "version_$name" "${versions[$name]}"); done
    for name in "${!gaps[@]}"; do named+=(--arg "gap_$name" "${gaps[$name]}"); done
    jq --slurp "${named[@]}" --arg image "$image" --argjson layers "${#layer_blobs[@]}" \
        --argjson compressed "$compressed" --argjson plain "$plain" --argjson entries "$entries" \
        --argjson targets "$(targets)" --slurpfile about "$here/about.json" --slurpfile figures "$noted" \
        --from-file "$here/summary.jq" "$runs"
}
