# Of all runs, one line each, and what else was told (`$figures`).
def median: sort | if length == 0 then null elif length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
def starting($prefix): with_entries(select(.key | startswith($prefix)) | .key |= ltrimstr($prefix));
# Against a target that there may not be.
def at_most($target): if . == null then null else {value: ., target: $target, met: (if $target then . <= $target else null end)} end;
def at_least($target): if . == null then null else {value: ., target: $target, met: (if $target then . >= $target else null end)} end;
. as $measured
| [$measured[] | ., (select(.line == "containerd-unpack") as $unpack
    | $measured[] | select(.line == "containerd-import" and .round == $unpack.round)
    | $unpack + {line: "containerd-both", wall_s: (.wall_s + $unpack.wall_s), cpu_s: (.cpu_s + $unpack.cpu_s),
        rss_kib: ([.rss_kib, $unpack.rss_kib] | max)})] as $runs
| def walls($line): [$runs[] | select(.line == $line).wall_s];
def peak($line): [$runs[] | select(.line == $line).rss_kib] | max;
def figures($name): [$figures[] | select(.name == $name)];
def ratio($ours; $line): (walls($ours) | median) as $wall
    | if $wall and $ours != $line then $wall / (walls($line) | median) | at_most($targets.ratios[$ours][$line]) else null end;
{
    image: {path: $image, layers: $layers, compressed_bytes: $compressed, plain_bytes: $plain, entries: $entries},
    versions: $ARGS.named | starting("version_"),
    gaps: $ARGS.named | starting("gap_"),
    runs: $measured,
    figures: $figures,
    results: (reduce $runs[].line as $line ([]; if index([$line]) then . else . + [$line] end) | map(. as $line
        | ($runs | map(select(.line == $line))) as $mine
        | {
            line: $line, runs: ($mine | length), wall_s: (walls($line) | median),
            wall_s_least: (walls($line) | min), wall_s_most: (walls($line) | max),
            cpu_s: ($mine | map(.cpu_s) | median), rss_kib: peak($line),
            stored_bytes: $mine[-1].stored_bytes, inodes: $mine[-1].inodes,
            ratio: ratio("layermount"; $line), ratio_dir: ratio("layermount-dir"; $line)
        } + $about[0][$line])),
    memory: (
        [["layermount", 65536 + $entries * 200 / 1024], ["layermount-dir", 65536]]
        | map({line: .[0]} + (.[1] as $target | peak(.[0]) | at_most($target)))
        | map(select(.value))),
    directories: ((walls("layermount") | median) as $wall
        | walls("layermount-dir") | median | if . and $wall then . / $wall | at_least($targets.directories) else null end),
    index_share: (figures("index_bytes")[-1].value as $bytes
        | figures("archive_bytes")[-1].value as $archives
        | if $bytes and $archives then $bytes / $archives | at_most($targets.index_share) + {bytes: $bytes} else null end),
    warm: ((figures("warm-bwrap") | map(.value) | median) as $bwrap
        | [("warm-single", "warm-ranges", "warm-bwrap") as $line | figures($line) | map(.value) | select(length > 0)
            | {line: $line, runs: length, median_ms: median, p90_ms: (sort | .[length * 0.9 | floor]),
                ratio: (if $line == "warm-bwrap" then null else median / $bwrap | at_most($targets.warm) end)}]),
    prune_ms: (figures("prune_ms") | map(.value) | median | at_most($targets.prune_ms)),
    after_pull_ms: (figures("pull_in_run_ms")
        | map(. as $pull | $runs[] | select(.line == "layermount-run" and .round == $pull.round) | .wall_s * 1000 - $pull.value)
        | median | at_most($targets.after_pull_ms))
}
