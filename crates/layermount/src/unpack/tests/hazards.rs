//! What an unpacker must survive, line by line, and where each line is tested.
//!
//! The letters are of groups: T names, links and replacement; W whiteouts; P the tar grammar; C compression and blobs;
//! M metadata, xattrs, devices and ids; E crashes, concurrency and resources.

use std::collections::BTreeSet;

use serde_json::Value;

use super::cases::FILES;
use super::*;

enum By {
    /// A case of `fixtures/cases`, run by `cases.rs`.
    Case(&'static str),
    /// A test: the file, from the workspace's root, and its name.
    Test(&'static str, &'static str),
    /// Not about layers.
    Other(&'static str),
}
use By::{Case, Other, Test};

const ODD: &str = "crates/layermount/src/unpack/tests/odd.rs";
const STACKS: &str = "crates/layermount/src/unpack/tests/stacks.rs";
const RECIPES: &str = "crates/layermount/src/unpack/tests/recipes.rs";
const METADATA: &str = "crates/layermount/src/unpack/tests/metadata.rs";
const COMPLETE: &str = "crates/layermount/src/unpack/tests/complete.rs";
const ARCHIVES: &str = "crates/layermount/src/unpack/tests/archives.rs";
const GNU_TAR: &str = "crates/layermount/src/unpack/tests/gnu_tar.rs";
const FOLD: &str = "crates/layermount/src/layer/fold/tests.rs";
const LAYER: &str = "crates/layermount/src/layer/tests.rs";
const DECODE: &str = "crates/layermount/src/decode/tests.rs";
const STORE: &str = "crates/layermount/tests/store.rs";

/// The line, what it is about, and by what it is tested.
#[rustfmt::skip]
const HAZARDS: &[(&str, &str, &[By])] = &[
    ("T1", "names that lead out", &[Case("rust-tar/malicious-names/rel-0"), Test(ODD, "refused_layers_are_named_and_leave_the_store_as_it_was")]),
    ("T2", "absolute names and empty components", &[Case("rust-tar/malicious-names/abs-0"), Test(STACKS, "random_stacks_in_the_trusted_namespace")]),
    ("T3", "`..` that stays inside is cleaned", &[Case("moby-go-archive/UntarParentTraversalContained/nested-parent"), Test(STACKS, "random_stacks_in_the_user_namespace")]),
    ("T4", "the root is a directory and nothing else", &[Case("rust-tar/malicious-names/root-0"), Test(FOLD, "names_that_mean_nothing_are_refused")]),
    ("T5", "symlink targets are kept and never followed", &[Case("moby-go-archive/SymlinkPreservesLinkname/abs"), Test(ODD, "symlink_targets_of_any_length_that_linux_takes")]),
    ("T6", "writing through a symlinked parent", &[Case("moby-go-archive/UntarSymlinkBreakout/two-hop"), Case("libarchive-secure/write-through-symlink")]),
    ("T7", "chains of symlinks longer than a path", &[Test(ODD, "chains_of_symlinks_end"), Test(FOLD, "symlinks_cannot_make_paths_longer_than_the_limits")]),
    ("T8", "hard links that lead out", &[Case("moby-go-archive/ApplyLayerInvalidHardlink/0-dotdot"), Case("libarchive-secure/secure746a-hardlink-escape"), Case("moby-go-archive/UntarSiblingPrefixContained")]),
    ("T9", "absolute hard links are of the root", &[Case("moby-go-archive/UntarAbsoluteHardlink")]),
    ("T10", "hard links to symlinks; a link's own metadata", &[Case("moby-go-archive/UntarHardlinkToSymlink"), Case("containerd/breakout/HardlinkSymlinkChmod"), Test(METADATA, "owners_devices_and_hard_links")]),
    ("T11", "hard links to directories, later entries, nothing, themselves", &[Case("layermount-extra/hardlink/to-dir"), Test(FOLD, "hard_links_into_lower_layers_stay_open")]),
    ("T12", "hard links into lower layers", &[Case("layermount-extra/hardlink/to-lower-layer"), Test(COMPLETE, "links_meet_what_else_the_layer_says")]),
    ("T13", "a directory in the place of a symlink", &[Case("rust-tar/symlink-dir-collision"), Case("rust-tar/symlink-dir-collision-dot")]),
    ("T14", "anything in the place of anything", &[Test(ODD, "anything_replaces_anything"), Test(STACKS, "random_stacks_in_the_trusted_namespace")]),
    ("T15", "the last of two entries counts", &[Case("layermount-extra/dup/file-then-dir"), Case("layermount-extra/dup/hardlink-target-replaced")]),
    ("T16", "children of what is no directory", &[Test(FOLD, "names_that_mean_nothing_are_refused"), Test(STACKS, "random_stacks_in_the_trusted_namespace")]),
    ("T17", "swaps in the destination while unpacking", &[Test("crates/layermount/src/unpack/root.rs", "both_ways_of_opening_stay_inside"), Other("the race itself is of the faults' tests")]),
    ("W1", "a whiteout removes what is below, and no target", &[Case("composefs-oci/double-whiteout"), Case("composefs-oci/whiteout-nonexistent-noop"), Case("containerd/breakout/WhiteoutSymlink")]),
    ("W2", "whiteouts of no name", &[Case("moby-go-archive/OverlayUntarInvalidWhiteoutNames/.wh."), Case("moby-go-archive/OverlayUntarInvalidWhiteoutNames/.wh...")]),
    ("W3", "the opaque mark's exact name, and AUFS's own", &[Case("composefs-oci/opaque-filename-exact"), Test(FOLD, "names_that_mean_nothing_are_refused")]),
    ("W4", "opaque marks before, between and behind", &[Test(FOLD, "any_order_gives_the_same_layer"), Test(STACKS, "random_stacks_in_another_order")]),
    ("W5", "a whiteout and an entry of one name", &[Case("composefs-oci/whiteout-then-recreate"), Test(FOLD, "an_entry_beats_a_whiteout_of_its_path")]),
    ("W6", "marks whose parents have no entry", &[Case("containerd/difftar/WhiteoutIncludesParents"), Test(COMPLETE, "directories_of_whiteouts_exist_only_over_lower_ones")]),
    ("W7", "a whiteout below a whiteout", &[Case("containerd/difftar/WhiteoutParentRemoval"), Test(FOLD, "nothing_is_whited_out_where_nothing_lower_shows")]),
    ("W8", "whiteouts in opaque directories", &[Test(FOLD, "nothing_is_whited_out_where_nothing_lower_shows"), Test(STACKS, "random_stacks_in_the_trusted_namespace")]),
    ("W9", "an opaque root", &[Case("layermount-extra/whiteout/root-opaque-first-layer"), Test(STORE, "an_opaque_root_leaves_the_root_directory_as_it_was")]),
    ("W10", "whiteouts with content or of odd types", &[Case("layermount-extra/whiteout/with-body"), Case("layermount-extra/whiteout/non-regular-type")]),
    ("W11", "a character device 0:0", &[Case("layermount-extra/whiteout/char00-entry")]),
    ("W12", "whiteouts of the longest names", &[Case("layermount-extra/whiteout/target-name-256"), Test(ODD, "names_of_any_length_that_linux_takes")]),
    ("W13", "flat and merged trees are the same", &[Test(STACKS, "random_stacks_in_the_trusted_namespace"), Test(STACKS, "random_stacks_in_one_directory")]),
    ("P1", "sizes of PAX headers", &[Case("rust-tar/raw/pax-size-smuggle"), Case("rust-tar/raw/pax-then-gnulong-size"), Test(LAYER, "tar_core_sees_the_same_entries")]),
    ("P2", "global headers", &[Case("rust-tar/raw/global-pax-size"), Case("moby-go-archive/XGlobalNoParent")]),
    ("P3", "PAX keys given twice", &[Case("rust-tar/raw/pax-dup-path-last-wins"), Case("rust-tar/raw/pax-dup-size-last-wins")]),
    ("P4", "PAX numbers with signs, and too large", &[Case("rust-tar/raw/pax-size-sign"), Test(ODD, "numbers_that_are_none_are_refused")]),
    ("P5", "malformed PAX records", &[Case("rust-tar/raw/pax-unterminated-record"), Test(ODD, "malformed_pax_records_are_refused")]),
    ("P6", "several extended headers for one entry", &[Case("rust-tar/raw/pax-path-and-gnu-longname"), Case("rust-tar/raw/pax-pending-at-eof")]),
    ("P7", "checksums of headers", &[Case("rust-tar/raw/bad-checksum"), Case("rust-tar/raw/signed-checksum")]),
    ("P8", "sizes that overflow", &[Case("rust-tar/raw/size-overflow"), Test(LAYER, "numbers_in_octal_and_base_256")]),
    ("P9", "sparse files", &[Test(LAYER, "the_pax_forms_of_sparse_files"), Test(LAYER, "sparse_maps_that_lie_are_refused"), Test(GNU_TAR, "every_format_of_gnu_tar"), Case("layermount-extra/stream/bomb-sparse-1.0-map")]),
    ("P10", "extended headers of more than 1 MiB", &[Case("layermount-extra/stream/bomb-longname-1GiB"), Test(LAYER, "limits_hold")]),
    ("P11", "archives cut anywhere", &[Test(LAYER, "an_archive_cut_anywhere_is_whole_only_between_entries"), Test(ODD, "a_blob_cut_anywhere_is_refused")]),
    ("P12", "data behind the end marker", &[Case("rust-tar/raw/entries-after-end-marker"), Test(DECODE, "every_byte_of_the_archive_comes_through_and_is_hashed")]),
    ("P13", "sizes of what has no data", &[Case("rust-tar/raw/dir-with-size"), Case("rust-tar/raw/hardlink-with-size")]),
    ("P14", "unknown types", &[Case("rust-tar/raw/unknown-typeflag"), Test(ODD, "unknown_types_are_refused")]),
    ("P15", "old and mixed headers", &[Test(ARCHIVES, "archives_of_other_projects"), Test(RECIPES, "cases_that_are_told_in_words")]),
    ("C1", "damaged gzip and zstd", &[Case("layermount-extra/stream/gzip-crc-flipped"), Test(ODD, "a_blob_with_any_bit_of_its_end_flipped_is_refused"), Test(DECODE, "broken_gzip_is_refused")]),
    ("C2", "members, frames and skippable frames", &[Case("layermount-extra/stream/gzip-multi-member"), Test(DECODE, "gzip_members_are_all_read"), Test(DECODE, "frames_and_skippable_frames")]),
    ("C3", "what stands behind the compressed data", &[Case("layermount-extra/stream/gzip-trailing-zeros"), Test(ODD, "what_stands_behind_compressed_data_is_looked_at")]),
    ("C4", "compressed twice", &[Case("layermount-extra/stream/double-gzip")]),
    ("C5", "zstd windows and dictionaries", &[Test(DECODE, "windows_beyond_the_limit_are_refused"), Test(ODD, "zstd_dictionaries_are_refused")]),
    ("C6", "bombs", &[Test(DECODE, "expansion_is_limited"), Test(RECIPES, "cases_that_are_told_in_words"), Test(LAYER, "limits_hold"), Test(ODD, "sparse_files_of_any_size_take_no_room")]),
    ("C7", "sizes, digests and diff IDs that disagree", &[Test(DECODE, "a_blob_that_is_not_what_the_descriptor_says_is_refused"), Test(STORE, "a_config_that_lies_about_a_diff_id_is_found_out"), Test(RECIPES, "cases_that_are_told_in_words")]),
    ("C8", "blobs that are no files", &[Test("crates/layermount/src/source/oci_layout/tests.rs", "blobs_that_are_not_regular_files")]),
    ("C9", "a blob that changes while it is read", &[Test(STORE, "damaged_blobs_leave_nothing_behind")]),
    ("C10", "media types that lie", &[Case("layermount-extra/stream/mediatype-gzip-body-zstd"), Test(DECODE, "media_types_of_layers_only")]),
    ("M1", "metadata in the right order, whatever the umask", &[Test(METADATA, "modes_and_times_are_the_archives_own"), Test(RECIPES, "cases_that_are_told_in_words"), Case("layermount-extra/order/dir-entry-after-children")]),
    ("M2", "directories that are closed to their owner", &[Case("layermount-extra/order/mode000-dir-rootless"), Test("crates/layermount/src/unpack/remove.rs", "a_deep_tree_goes_and_its_symlinks_targets_stay")]),
    ("M3", "times far away", &[Case("layermount-extra/meta/mtime-huge"), Test(METADATA, "modes_and_times_are_the_archives_own")]),
    ("M4", "owners that are no 32-bit IDs", &[Case("layermount-extra/meta/uid-gt-2^31"), Case("layermount-extra/meta/uid-2^32"), Test(ODD, "numbers_that_are_none_are_refused")]),
    ("M5", "set-user-ID bits, and who can reach them", &[Test(METADATA, "modes_and_times_are_the_archives_own"), Test(RECIPES, "cases_that_are_told_in_words")]),
    ("M6", "capabilities and other machines' xattrs", &[Case("layermount-extra/xattr/selinux-dropped"), Test(METADATA, "owners_devices_and_hard_links"), Case("containerd/xattr/user-on-symlink")]),
    ("M7", "overlayfs's own xattrs in an archive", &[Case("layermount-extra/xattr/overlay-smuggle-redirect"), Test(METADATA, "overlay_attributes_of_an_archive_are_inert"), Test(STACKS, "random_stacks_in_the_user_namespace")]),
    ("M8", "devices", &[Case("containerd/device/out-of-range"), Test(METADATA, "owners_devices_and_hard_links"), Test("crates/layermount-cli/tests/rootless.rs", "the_same_commands_work_in_a_user_namespace")]),
    ("M9", "names of any bytes and lengths", &[Case("layermount-extra/name/256"), Case("layermount-extra/name/newline-control"), Case("layermount-extra/name/deep-100k"), Test(ODD, "names_of_any_length_that_linux_takes"), Test(ODD, "paths_of_any_depth"), Test(STORE, "deep_trees_need_few_descriptors")]),
    ("M10", "names that differ in case or normalization", &[Case("layermount-extra/name/case-and-nfc-nfd")]),
    ("E1", "killed at any moment", &[Test("crates/layermount-cli/tests/real_image.rs", "killed_pulls_leave_a_store_that_heals")]),
    ("E2", "power cuts", &[Test(STORE, "what_a_power_cut_leaves_is_found_removed_and_made_anew")]),
    ("E3", "disks that are full or fail", &[Test(STORE, "an_engine_that_breaks_off_is_no_fault_of_the_layer"), Other("the disk's own faults are of the faults' tests")]),
    ("E4", "many at once", &[Test(STORE, "many_at_once_do_the_work_once"), Test(STORE, "many_may_prune_at_once")]),
    ("E5", "locks of the dead", &[Test(STORE, "leftovers_of_the_dead_are_swept")]),
    ("E6", "few descriptors, odd surroundings", &[Test(STORE, "deep_trees_need_few_descriptors"), Test(RECIPES, "cases_that_are_told_in_words"), Test("crates/layermount-cli/tests/usage.rs", "closed_standard_streams_are_survived")]),
    ("E7", "stores of others", &[Test(STORE, "stores_that_others_can_write_to_are_refused")]),
    ("E8", "signals", &[Test("crates/layermount-cli/tests/run.rs", "signals_reach_the_program_or_end_it")]),
    ("E9", "cleaning up what is deep, closed or half gone", &[Test("crates/layermount/src/unpack/remove.rs", "a_deep_tree_goes_and_its_symlinks_targets_stay"), Test(STORE, "leftovers_of_the_dead_are_swept")]),
];

/// Whether a file of the workspace has a test of this name (or a function, for harnesses of its own).
pub(super) fn has_test(file: &str, name: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    text.contains(&format!("fn {name}("))
}

#[test]
fn every_hazard_is_tested() {
    let cases: BTreeSet<String> = (FILES.iter())
        .map(|(_, text)| serde_json::from_str::<Value>(text).unwrap())
        .flat_map(|file| file["cases"].as_array().unwrap().clone())
        .map(|case| case["id"].as_str().unwrap().to_owned())
        .collect();
    let lines: Vec<String> = [('T', 17), ('W', 13), ('P', 15), ('C', 10), ('M', 10), ('E', 9)]
        .into_iter()
        .flat_map(|(group, count)| (1..=count).map(move |number| format!("{group}{number}")))
        .collect();
    let known: Vec<&str> = HAZARDS.iter().map(|(line, ..)| *line).collect();
    assert_eq!(lines, known);
    for (line, about, tests) in HAZARDS {
        assert!(!tests.is_empty(), "{line} ({about}) is not tested");
        for by in *tests {
            match by {
                Case(id) => assert!(cases.contains(*id), "{line} ({about}): there is no case {id}"),
                Test(file, name) => assert!(has_test(file, name), "{line} ({about}): no test {name} in {file}"),
                Other(reason) => assert!(!reason.is_empty()),
            }
        }
    }
}
