//! The xattrs of a layer, as a file system would have them after they were set.
//!
//! Nobody sets them one by one here, so what `setxattr(2)` looks after has to be done: attributes that a kind of file cannot have
//! are left out, malformed ones are refused, and an ACL has a say in the mode.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::tree::{Full, Tree, Xattrs, XattrsId};
use crate::image::OverlayXattrs;
use crate::layer::{Attributes, Refusal, Verdict, judge, memory_of_xattrs};

/// For which kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    Directory,
    File,
    Symlink,
    /// A device or a fifo.
    Special,
}

/// Gives each distinct set of xattrs of a tree one id.
#[derive(Debug, Default)]
pub(super) struct Interner {
    /// Finds the sets in the tree.
    ids: HashTable<XattrsId>,
    hashes: RandomState,
    /// What all sets take in memory until the layer's end.
    pub(super) kept: u64,
    /// How many were left out.
    pub(super) skipped: u64,
}

/// What is refused, or does not fit.
#[derive(Debug)]
pub(super) enum XattrError {
    Refused(Refusal),
    Full(Full),
}

impl Interner {
    /// The set that `attributes` come to for a holder, and the mode, which an ACL may change.
    pub(super) fn add(
        &mut self,
        tree: &mut Tree,
        attributes: &Attributes,
        holder: Holder,
    ) -> Result<(XattrsId, u32), XattrError> {
        let mut mode = attributes.mode;
        if attributes.xattrs.is_empty() {
            return Ok((XattrsId::NONE, mode));
        }
        let mut kept = Xattrs::new();
        for (name, value) in &attributes.xattrs {
            match (judge(name, OverlayXattrs::Trusted), holder) {
                (Verdict::Set(name), _) if suits(&name, holder) => {
                    let keep = match name.as_slice() {
                        b"system.posix_acl_access" => check_acl(value, Some(&mut mode)),
                        b"system.posix_acl_default" => check_acl(value, None),
                        b"security.capability" => check_capability(value),
                        _ => Ok(true),
                    };
                    if keep.map_err(XattrError::Refused)? {
                        kept.push((name, value.clone()));
                    }
                }
                _ => self.skipped += 1,
            }
        }
        if kept.is_empty() {
            return Ok((XattrsId::NONE, mode));
        }
        let hash = self.hashes.hash_one(kept.as_slice());
        if let Some(id) = self.ids.find(hash, |id| tree.xattrs(*id) == kept) {
            return Ok((*id, mode));
        }
        self.kept += memory_of_xattrs(&kept) as u64;
        let id = tree.add_xattrs(kept).map_err(XattrError::Full)?;
        self.ids.insert_unique(hash, id, |id| self.hashes.hash_one(tree.xattrs(*id)));
        Ok((id, mode))
    }
}

/// Whether this kind of file can have the attribute: xattr(7), acl(5).
fn suits(name: &[u8], holder: Holder) -> bool {
    match name {
        b"system.posix_acl_default" => holder == Holder::Directory,
        b"system.posix_acl_access" => holder != Holder::Symlink,
        _ if name.starts_with(b"user.") => matches!(holder, Holder::Directory | Holder::File),
        _ => true,
    }
}

/// Checks a capability set as `cap_convert_nscap()` in `security/commoncap.c` does.
fn check_capability(value: &[u8]) -> Result<bool, Refusal> {
    const REVISION_2: u32 = 0x0200_0000;
    const REVISION_3: u32 = 0x0300_0000;
    let revision = value.first_chunk().map(|magic| u32::from_le_bytes(*magic) & 0xff00_0000);
    match (revision, value.len()) {
        (Some(REVISION_2), 20) | (Some(REVISION_3), 24) => Ok(true),
        _ => Err(Refusal::Because("its security.capability is malformed")),
    }
}

const MALFORMED: Refusal = Refusal::Because("its ACL is malformed");

/// Checks an ACL (`include/uapi/linux/posix_acl_xattr.h`) as `posix_acl_from_xattr()` and `posix_acl_valid()` in
/// `fs/posix_acl.c` do. It gives the file its `mode`; one that says no more than the mode is not kept.
fn check_acl(value: &[u8], mode: Option<&mut u32>) -> Result<bool, Refusal> {
    const VERSION: u32 = 2;
    const USER_OBJ: u16 = 1;
    const USER: u16 = 2;
    const GROUP_OBJ: u16 = 4;
    const GROUP: u16 = 8;
    const MASK: u16 = 16;
    const OTHER: u16 = 32;
    let (version, entries) = value.split_first_chunk().ok_or(MALFORMED)?;
    if u32::from_le_bytes(*version) != VERSION || entries.len() % 8 != 0 {
        return Err(MALFORMED);
    }
    if entries.is_empty() {
        // Setting none takes away what there is, which is none.
        return Ok(false);
    }
    // In this order, each once but for USER and GROUP.
    let mut last = 0;
    let (mut owner, mut group, mut mask, mut other) = (None, None, None, None);
    let mut named = false;
    for entry in entries.chunks_exact(8) {
        let field = |at: usize| entry.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_le_bytes);
        let (Some(tag), Some(permissions)) = (field(0), field(2)) else { return Err(MALFORMED) };
        let repeats = matches!(tag, USER | GROUP) && tag == last;
        if permissions > 7 || !(tag > last || repeats) {
            return Err(MALFORMED);
        }
        last = tag;
        let permissions = u32::from(permissions);
        match tag {
            USER_OBJ => owner = Some(permissions),
            GROUP_OBJ => group = Some(permissions),
            MASK => mask = Some(permissions),
            OTHER => other = Some(permissions),
            USER | GROUP => named = true,
            _ => return Err(MALFORMED),
        }
    }
    let (Some(owner), Some(group), Some(other)) = (owner, group, other) else { return Err(MALFORMED) };
    if named && mask.is_none() {
        return Err(MALFORMED);
    }
    let Some(mode) = mode else { return Ok(true) };
    *mode = *mode & !0o777 | owner << 6 | mask.unwrap_or(group) << 3 | other;
    Ok(named || mask.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut value = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(7_u32.to_le_bytes());
        }
        value
    }

    fn attributes(xattrs: &[(&str, Vec<u8>)]) -> Attributes {
        let xattrs = xattrs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.clone())).collect();
        Attributes { mode: 0o6640, uid: 0, gid: 0, mtime: (0, 0), xattrs }
    }

    #[test]
    fn an_acl_gives_the_mode() {
        let mut mode = 0o4640;
        assert!(check_acl(&acl(&[(1, 7), (2, 4), (4, 4), (16, 6), (32, 1)]), Some(&mut mode)).unwrap());
        assert_eq!(mode, 0o4761);
        // It says what the mode says.
        assert!(!check_acl(&acl(&[(1, 6), (4, 0), (32, 0)]), Some(&mut mode)).unwrap());
        assert_eq!(mode, 0o4600);
        assert!(check_acl(&acl(&[(1, 6), (4, 0), (32, 0)]), None).unwrap(), "a default ACL is kept as it is");
    }

    #[test]
    fn malformed_acls_are_refused() {
        let good = acl(&[(1, 7), (2, 4), (2, 5), (4, 4), (16, 6), (32, 1)]);
        assert!(check_acl(&good, None).unwrap());
        for bad in [
            &good[..good.len() - 1],
            &good[..3],
            &[3, 0, 0, 0],
            &acl(&[(1, 7), (4, 4)]),
            &acl(&[(1, 8), (4, 4), (32, 0)]),
            &acl(&[(4, 4), (1, 7), (32, 0)]),
            &acl(&[(1, 7), (1, 7), (4, 4), (32, 0)]),
            &acl(&[(1, 7), (2, 7), (4, 4), (32, 0)]),
            &acl(&[(1, 7), (4, 4), (32, 0), (64, 0)]),
        ] {
            assert!(check_acl(bad, None).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn each_kind_of_file_has_what_it_can_have() {
        let (mut tree, mut interner) = (Tree::default(), Interner::default());
        let capability = [&0x0200_0000_u32.to_le_bytes()[..], &[0; 16]].concat();
        let all = attributes(&[
            ("user.a", b"1".to_vec()),
            ("security.capability", capability),
            ("system.posix_acl_default", acl(&[(1, 6), (4, 0), (32, 0)])),
            ("trusted.overlay.opaque", b"y".to_vec()),
            ("trusted.other", b"".to_vec()),
        ]);
        for (holder, count) in [(Holder::Directory, 4), (Holder::File, 3), (Holder::Symlink, 2), (Holder::Special, 2)] {
            let (id, mode) = interner.add(&mut tree, &all, holder).unwrap();
            let names: Vec<_> = tree.xattrs(id).iter().map(|(name, _)| name.escape_ascii().to_string()).collect();
            assert_eq!((names.len(), mode), (count, 0o6640), "{names:?}");
            assert!(names.contains(&"trusted.overlay.overlay.opaque".to_owned()));
        }
        let (again, _) = interner.add(&mut tree, &all, Holder::File).unwrap();
        assert_eq!(interner.add(&mut tree, &all, Holder::File).unwrap().0, again);
        assert_eq!(interner.kept, tree.memory(), "each distinct set counts once");
        let bad = attributes(&[("security.capability", vec![0; 20])]);
        assert!(matches!(interner.add(&mut tree, &bad, Holder::File), Err(XattrError::Refused(_))));
    }
}
