//! [`Limits`]: how much a layer may ask for.
//!
//! Layers come from strangers, and a few bytes of one can ask for any amount of disk, memory or time. What no honest layer
//! asks for is refused: with [`ErrorKind::LimitExceeded`], an error that names the limit and the
//! entry, and nothing of the layer in the store.

use std::fmt;
use std::str::FromStr;

use crate::decode::DecodeLimits;
use crate::error::{ErrorKind, Fault};
use crate::layer::LayerLimits;

/// Something that is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// `tar-bytes`: the length of one layer's archive, uncompressed. 256 GiB.
    TarBytes,
    /// `image-bytes`: the length of all archives that are unpacked for one image, together, and of the files of lower layers
    /// that hard links have copied. 512 GiB.
    ImageBytes,
    /// `expansion-ratio`: how many times longer than its blob an archive may be, once it is longer than `expansion-floor`.
    /// 1100: Deflate cannot exceed 1032; Zstandard can reach millions, with nothing but repetitions. The same goes for the files
    /// of lower layers that its hard links have copied.
    ExpansionRatio,
    /// `expansion-floor`: the length of an archive, uncompressed, up to which `expansion-ratio` does not count. 1 GiB.
    ExpansionFloor,
    /// `entries`: entries of one layer, and directories that only appear in the paths of entries. 1,000,000; at most 2³²−2.
    Entries,
    /// `path-bytes`: the length of a path or of a symlink's target. 4095, which is also the most (`PATH_MAX`).
    PathBytes,
    /// `path-depth`: the components of a path. 1024.
    PathDepth,
    /// `extension-bytes`: the length of one extended header (PAX records, GNU long name) or of a sparse file's map. 1 MiB.
    ExtensionBytes,
    /// `xattrs`: the extended attributes of one entry. 256.
    Xattrs,
    /// `xattr-bytes`: the length of one extended attribute's value. 64 KiB, which is also the most (`XATTR_SIZE_MAX`).
    XattrBytes,
    /// `sparse-regions`: the pieces of data in one sparse file. 10,000.
    SparseRegions,
    /// `symlink-components`: components that symlinks of a layer add to the names of all its entries. 32 Mi: a short name
    /// can lead through forty long symlinks.
    SymlinkComponents,
    /// `kept-bytes`: what stays in memory until a layer's end: names, symlinks, whiteouts, the xattrs of directories, and the
    /// paths of what only the layers below can tell. For an EROFS file also the distinct sets of xattrs of all entries, and where
    /// the data of sparse files lies; both count by themselves. 256 MiB; at most 4 GiB.
    KeptBytes,
    /// `index-bytes`: what the trees of all layers of an image take in memory while one index is made of them. 2 GiB, which
    /// are about 20 million entries.
    IndexBytes,
}

/// How much a layer may ask for; [`Limit`] says what each limit means, and what it is by default.
///
/// ```
/// use layermount::{Limit, Limits};
///
/// let limits = Limits::default().with(Limit::TarBytes, 10 << 30).with(Limit::Entries, 50_000);
/// assert_eq!(limits.get(Limit::TarBytes), 10 << 30);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    values: [u64; Limit::ALL.len()],
}

impl Limit {
    /// All there are.
    pub const ALL: &[Self] = &[
        Self::TarBytes,
        Self::ImageBytes,
        Self::ExpansionRatio,
        Self::ExpansionFloor,
        Self::Entries,
        Self::PathBytes,
        Self::PathDepth,
        Self::ExtensionBytes,
        Self::Xattrs,
        Self::XattrBytes,
        Self::SparseRegions,
        Self::SymlinkComponents,
        Self::KeptBytes,
        Self::IndexBytes,
    ];

    /// The name by which it is set, and called in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TarBytes => "tar-bytes",
            Self::ImageBytes => "image-bytes",
            Self::ExpansionRatio => "expansion-ratio",
            Self::ExpansionFloor => "expansion-floor",
            Self::Entries => "entries",
            Self::PathBytes => "path-bytes",
            Self::PathDepth => "path-depth",
            Self::ExtensionBytes => "extension-bytes",
            Self::Xattrs => "xattrs",
            Self::XattrBytes => "xattr-bytes",
            Self::SparseRegions => "sparse-regions",
            Self::SymlinkComponents => "symlink-components",
            Self::KeptBytes => "kept-bytes",
            Self::IndexBytes => "index-bytes",
        }
    }

    /// What is counted, for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::TarBytes => "bytes of a layer's archive, uncompressed",
            Self::ImageBytes => "bytes of all that is unpacked and copied for an image",
            Self::ExpansionRatio => "bytes that a byte of a blob expands to",
            Self::ExpansionFloor => "bytes of an archive for which expansion-ratio does not count yet",
            Self::Entries => "entries and directories of a layer",
            Self::PathBytes => "bytes of a path or of a symlink's target",
            Self::PathDepth => "components of a path",
            Self::ExtensionBytes => "bytes of an extended header",
            Self::Xattrs => "extended attributes of an entry",
            Self::XattrBytes => "bytes of an extended attribute",
            Self::SparseRegions => "pieces of data in a sparse file",
            Self::SymlinkComponents => "components that symlinks add to names",
            Self::KeptBytes => "bytes of a layer's names, open paths and directories' xattrs",
            Self::IndexBytes => "bytes of memory for the trees of all layers of an image",
        }
    }

    /// Whether it is a number of bytes.
    pub fn is_bytes(self) -> bool {
        match self {
            Self::ExpansionRatio | Self::Entries | Self::PathDepth | Self::Xattrs => false,
            Self::SparseRegions | Self::SymlinkComponents => false,
            Self::TarBytes | Self::ImageBytes | Self::ExpansionFloor | Self::KeptBytes => true,
            Self::PathBytes | Self::ExtensionBytes | Self::XattrBytes | Self::IndexBytes => true,
        }
    }

    /// What Linux, or this crate, can take at most.
    fn most(self) -> u64 {
        match self {
            // The kernel's PATH_MAX counts the final NUL.
            Self::PathBytes => 4095,
            Self::XattrBytes => 64 << 10,
            // Nodes of a layer are numbered in 32 bits, and the root is one.
            Self::Entries => u64::from(u32::MAX) - 1,
            // So are the places of names.
            Self::KeptBytes => u64::from(u32::MAX),
            _ => u64::MAX,
        }
    }

    /// What a person does about a layer that exceeds it where it is `value`.
    pub(crate) fn hint(self, value: u64) -> String {
        let kind = if self.is_bytes() { "SIZE" } else { "NUMBER" };
        match value >= self.most() {
            true => "more than that cannot be had".to_owned(),
            false => format!("if the image can be trusted, raise the limit (--limit {self}={kind})"),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that no limit has.
#[derive(Debug, thiserror::Error)]
#[error("there is no limit {name:?}")]
struct UnknownLimit {
    name: String,
}

impl Fault for UnknownLimit {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }

    fn hint(&self) -> Option<String> {
        let names: Vec<_> = Limit::ALL.iter().map(|limit| limit.as_str()).collect();
        Some(format!("there are {}", names.join(", ")))
    }
}

impl FromStr for Limit {
    type Err = crate::Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().copied().find(|limit| limit.as_str() == name);
        found.ok_or_else(|| UnknownLimit { name: name.to_owned() }.into())
    }
}

impl Default for Limits {
    fn default() -> Self {
        let DecodeLimits { tar_bytes, ratio, ratio_floor } = DecodeLimits::default();
        let layer = LayerLimits::default();
        let value = |limit| match limit {
            Limit::TarBytes => tar_bytes,
            Limit::ImageBytes => 512 << 30,
            Limit::ExpansionRatio => ratio,
            Limit::ExpansionFloor => ratio_floor,
            Limit::Entries => layer.entries,
            Limit::PathBytes => layer.path_bytes as u64,
            Limit::PathDepth => layer.path_depth as u64,
            Limit::ExtensionBytes => layer.extension_bytes,
            Limit::Xattrs => layer.xattrs as u64,
            Limit::XattrBytes => layer.xattr_bytes as u64,
            Limit::SparseRegions => layer.sparse_regions as u64,
            Limit::SymlinkComponents => layer.symlink_components,
            Limit::KeptBytes => layer.kept_bytes,
            Limit::IndexBytes => 2 << 30,
        };
        let mut values = [0; Limit::ALL.len()];
        for (place, limit) in values.iter_mut().zip(Limit::ALL) {
            *place = value(*limit);
        }
        Self { values }
    }
}

impl Limits {
    /// Sets one limit: `value` is accepted, and one more is not. More than can be had counts as the most that can.
    #[must_use]
    pub fn with(mut self, limit: Limit, value: u64) -> Self {
        if let Some(place) = self.values.get_mut(limit as usize) {
            *place = value.min(limit.most());
        }
        self
    }

    /// What is accepted of something.
    pub fn get(&self, limit: Limit) -> u64 {
        // Every limit has its place: see the test.
        self.values.get(limit as usize).copied().unwrap_or_default()
    }

    pub(crate) fn decode(&self) -> DecodeLimits {
        DecodeLimits {
            tar_bytes: self.get(Limit::TarBytes),
            ratio: self.get(Limit::ExpansionRatio),
            ratio_floor: self.get(Limit::ExpansionFloor),
        }
    }

    pub(crate) fn layer(&self) -> LayerLimits {
        let size = |limit| usize::try_from(self.get(limit)).unwrap_or(usize::MAX);
        LayerLimits {
            entries: self.get(Limit::Entries),
            path_bytes: size(Limit::PathBytes),
            path_depth: size(Limit::PathDepth),
            extension_bytes: self.get(Limit::ExtensionBytes),
            xattrs: size(Limit::Xattrs),
            xattr_bytes: size(Limit::XattrBytes),
            sparse_regions: size(Limit::SparseRegions),
            symlink_components: self.get(Limit::SymlinkComponents),
            kept_bytes: self.get(Limit::KeptBytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_has_a_name_and_a_place() {
        for (index, &limit) in Limit::ALL.iter().enumerate() {
            assert_eq!(limit as usize, index);
            assert_eq!(limit.as_str().parse::<Limit>().unwrap(), limit);
            let changed = Limits::default().with(limit, 7);
            for &other in Limit::ALL {
                let expected = if other == limit { 7 } else { Limits::default().get(other) };
                assert_eq!(changed.get(other), expected, "{limit}, {other}");
            }
            assert!(changed.get(limit) < limit.most() && limit.hint(7).contains(limit.as_str()));
            assert!(!limit.hint(limit.most()).contains("raise"));
        }
        let error = "tar".parse::<Limit>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.hint().unwrap().contains("tar-bytes, image-bytes"));
        assert_eq!(Limits::default().with(Limit::PathBytes, u64::MAX).get(Limit::PathBytes), 4095);
    }

    #[test]
    fn limits_arrive_where_they_count() {
        let limits = Limit::ALL.iter().zip(1..).fold(Limits::default(), |limits, (limit, n)| limits.with(*limit, n));
        let DecodeLimits { tar_bytes, ratio, ratio_floor } = limits.decode();
        assert_eq!((tar_bytes, limits.get(Limit::ImageBytes), ratio, ratio_floor), (1, 2, 3, 4));
        let layer = limits.layer();
        assert_eq!((layer.entries, layer.path_bytes, layer.path_depth, layer.extension_bytes), (5, 6, 7, 8));
        assert_eq!((layer.xattrs, layer.xattr_bytes, layer.sparse_regions), (9, 10, 11));
        assert_eq!((layer.symlink_components, layer.kept_bytes), (12, 13));
    }
}
