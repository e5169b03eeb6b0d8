//! One entry of a layer's archive, free of how it was written.

/// What an archive says about one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As it stands in the archive; [`path`](super::path) cleans and judges it.
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) attributes: Attributes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File {
        /// The file's length, holes included.
        size: u64,
        /// Where the data lies if the file has holes: ascending, disjoint, within `size`.
        sparse: Option<Vec<Region>>,
    },
    Directory,
    /// The target, verbatim.
    Symlink(Vec<u8>),
    /// The target as it stands in the archive: a path from the layer's root.
    HardLink(Vec<u8>),
    CharDevice(Device),
    BlockDevice(Device),
    Fifo,
}

/// A piece of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

/// Owner, mode, time and xattrs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Permission bits with set-user-ID, set-group-ID and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970, and nanoseconds that count upwards from there.
    pub(crate) mtime: (i64, u32),
    /// As they stand in the archive, before [`judge`](super::judge).
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}
