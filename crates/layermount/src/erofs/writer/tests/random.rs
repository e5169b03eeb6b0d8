//! Trees that nobody thought of.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::build::{Builder, Files, Where, acl};
use super::*;
use crate::erofs::tree::{Metadata, Named, Xattrs, XattrsId};

/// One thing to add; numbers are made to fit where they are used.
#[derive(Debug, Clone)]
struct Plan {
    directory: usize,
    name: Vec<u8>,
    what: Kind,
    attributes: (u16, u32, u32, (i64, u32)),
    xattrs: Vec<(usize, Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum Kind {
    Directory {
        opaque: bool,
    },
    /// A directory with this many files.
    Many(u16),
    File {
        place: usize,
        start: u32,
        size: u32,
    },
    Sparse {
        place: usize,
        bits: u8,
        chunks: Vec<Option<u32>>,
        less: u64,
    },
    Symlink(Vec<u8>),
    Device {
        block: bool,
        major: u32,
        minor: u32,
    },
    Fifo,
    Whiteout,
    HardLink(usize),
}

fn text(length: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<u8>> {
    vec(1..=u8::MAX, length)
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let few = prop::sample::select(b"-.!a0\xff".to_vec());
    let name = prop_oneof![4 => vec(few, 1..4), 2 => text(1..40), 1 => text(200..=255)];
    name.prop_map(|mut name| {
        name.iter_mut().filter(|byte| **byte == b'/').for_each(|byte| *byte = b'_');
        name
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    let sparse = (any::<usize>(), 0..4_u8, vec(any::<Option<u32>>(), 1..40), 0..512_u64)
        .prop_map(|(place, bits, chunks, less)| Kind::Sparse { place, bits, chunks, less });
    let huge = vec(Just(None), 1..4).prop_map(|chunks| Kind::Sparse { place: 0, bits: 31, chunks, less: 7 });
    prop_oneof![
        6 => any::<bool>().prop_map(|opaque| Kind::Directory { opaque }),
        1 => (0..600_u16).prop_map(Kind::Many),
        6 => any::<(usize, u32, u32)>().prop_map(|(place, start, size)| Kind::File { place, start, size }),
        3 => sparse,
        1 => huge,
        3 => text(1..100).prop_map(Kind::Symlink),
        2 => text(1..=4095).prop_map(Kind::Symlink),
        2 => (any::<bool>(), 0..4096_u32, 0..1_u32 << 20).prop_map(|(block, major, minor)| Kind::Device { block, major, minor }),
        1 => Just(Kind::Fifo),
        3 => Just(Kind::Whiteout),
        4 => any::<usize>().prop_map(Kind::HardLink),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let id = prop_oneof![0..3_u32, Just(u32::MAX - 1), 0..u32::MAX];
    let time = (prop_oneof![-10..10_i64, any::<i64>()], 0..1_000_000_000_u32);
    let value = prop_oneof![3 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 0..3000)];
    let xattrs = prop_oneof![2 => Just(Vec::new()), 1 => vec((0..4_usize, text(1..200), value), 0..4)];
    (any::<usize>(), name(), kind(), (0..=0o7777_u16, id.clone(), id, time), xattrs)
        .prop_map(|(directory, name, what, attributes, xattrs)| Plan { directory, name, what, attributes, xattrs })
}

pub(super) fn plans() -> impl Strategy<Value = (Files, Tree)> {
    let files = prop_oneof![
        (1..200_u32).prop_map(Files::in_one),
        (vec(1..200_u32, 1..4), 0..10_u32).prop_map(|(devices, own)| Files { own, devices }),
    ];
    (files, vec(plan(), 0..60)).prop_map(|(files, plans)| {
        let tree = tree_of(&files, plans);
        (files, tree)
    })
}

fn tree_of(files: &Files, plans: Vec<Plan>) -> Tree {
    let mut builder = Builder::new();
    let mut directories = vec![InodeId::ROOT];
    let mut others = Vec::new();
    let places = files.places();
    for plan in plans {
        let at = Where { directory: directories[plan.directory % directories.len()], name: &plan.name };
        if !builder.is_free(at) {
            continue;
        }
        let (mode, uid, gid, mtime) = plan.attributes;
        let has_users = matches!(plan.what, Kind::Directory { .. } | Kind::Many(_) | Kind::File { .. });
        let xattrs = builder.metadata(xattrs(&plan.xattrs, has_users)).xattrs;
        let mut metadata = Metadata { mode, uid, gid, mtime, xattrs };
        match plan.what {
            Kind::Directory { opaque } => {
                let what = What::Directory(Directory::new(Named::Here, opaque));
                directories.push(builder.put_with(at, metadata, what));
            }
            Kind::Many(count) => {
                let directory = builder.directory(at, metadata);
                for number in 0..count {
                    builder.file(Where { directory, name: format!("{number}").as_bytes() });
                }
                directories.push(directory);
            }
            Kind::File { place, start, size } => {
                let (device, first, blocks) = places[place % places.len()];
                let start = start % blocks;
                let size = u64::from(size) % (u64::from(blocks - start) * 512 + 1);
                let data = Data::Plain { device, block: first + start };
                others.push(builder.put_with(at, metadata, What::File { size, data }));
            }
            Kind::Sparse { place, bits, chunks, less } => {
                let (device, first, blocks) = places[place % places.len()];
                let size = ((chunks.len() as u64) << bits) * 512 - less;
                let fit = u64::from(blocks).saturating_sub(1 << bits);
                let block = |start: &Option<u32>| match start {
                    Some(start) if fit > 0 => first + (u64::from(*start) % fit) as u32,
                    _ => HOLE,
                };
                let blocks: Vec<_> = chunks.iter().map(block).collect();
                let what = builder.chunks(size, device, bits, &blocks);
                others.push(builder.put_with(at, metadata, what));
            }
            Kind::Symlink(target) => {
                // As symlinks have them.
                metadata.mode = 0o777;
                others.push(builder.symlink(at, metadata, &target));
            }
            Kind::Device { block, major, minor } => {
                let device = Device { major, minor };
                let what = if block { What::BlockDevice(device) } else { What::CharDevice(device) };
                others.push(builder.put_with(at, metadata, what));
            }
            Kind::Fifo => others.push(builder.put_with(at, metadata, What::Fifo)),
            Kind::Whiteout => builder.name(at, Child::Whiteout),
            Kind::HardLink(to) => {
                if let Some(inode) = to.checked_rem(others.len()).map(|index| others[index]) {
                    builder.name(at, Child::Inode(inode));
                }
            }
        }
    }
    builder.finish()
}

fn xattrs(plans: &[(usize, Vec<u8>, Vec<u8>)], has_users: bool) -> Xattrs {
    let mut names = BTreeSet::new();
    let mut xattrs = Xattrs::new();
    for (prefix, name, value) in plans {
        let (name, value) = match prefix {
            0 if has_users => ([b"user.", name.as_slice()].concat(), value.clone()),
            1 => ([b"trusted.", name.as_slice()].concat(), value.clone()),
            2 if has_users => (b"system.posix_acl_access".to_vec(), acl()),
            _ => ([b"security.", name.as_slice()].concat(), value.clone()),
        };
        if names.insert(name.clone()) {
            xattrs.push((name, value));
        }
    }
    xattrs
}

proptest! {
    #[test]
    fn trees_come_back((files, tree) in plans()) {
        assert_comes_back(&tree, &files);
    }

    #[test]
    fn the_reader_survives_damaged_images(
        (files, tree) in plans(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        near in any::<prop::sample::Index>(),
    ) {
        let mut image = files.image(&tree).unwrap();
        let first = (files.own_start() + files.own) as usize * 512;
        let metadata = &mut image[first..];
        // Some far from one another, some together in one inode.
        let near = near.index(metadata.len());
        for (index, value) in changes {
            let length = metadata.len();
            metadata[index.index(length)] = value;
            metadata[(near + index.index(64)) % length] = value;
        }
        // An error or another tree: what matters is that there is an answer.
        let _ = reader::read(&image, &files.device_bytes());
    }

    #[test]
    fn bytes_that_are_no_image_are_an_error(bytes in vec(any::<u8>(), 0..9000)) {
        prop_assert!(reader::read(&bytes, &[]).is_err());
    }
}

#[test]
fn no_xattrs_are_no_set() {
    assert_eq!(Builder::new().metadata(xattrs(&[], true)).xattrs, XattrsId::NONE);
}
