# The images that are unpacked. Sourced by compare, which has `image`, `target`, `say` and `fail`.

image_tag() {
    jq --raw-output '.manifests | if length == 1 then .[0].annotations["org.opencontainers.image.ref.name"] else error("more than one image") end' "$1/index.json" ||
        fail "$1 is not an OCI layout with one image" 65
}

# The image with layers that are not compressed: only as a plain directory does skopeo write them, and only from there to a
# layout. Absent if it cannot be.
make_plain() {
    local -r plain=$image-plain part=$image-plain.part
    if [[ $plain/index.json -nt $image/index.json ]]; then return 0; fi
    rm -rf --one-file-system "$plain" "$part"
    mkdir "$part"
    if skopeo copy --quiet --insecure-policy --dest-decompress "oci:$image" "dir:$part/dir" >&2 &&
        skopeo copy --quiet --insecure-policy --dest-oci-accept-uncompressed-layers "dir:$part/dir" "oci:$part/oci:$(image_tag "$image")" >&2; then
        mv "$part/oci" "$plain"
        say 'made the variant that is not compressed'
    fi
    rm -rf --one-file-system "$part"
}

make_small() {
    [[ ! -e $image ]] || return 0
    rm -rf --one-file-system "$image.part"
    "$target/release/small-files" "$image.part"
    mv "$image.part" "$image"
}
