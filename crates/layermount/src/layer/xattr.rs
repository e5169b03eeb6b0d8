//! Which extended attributes of an archive become extended attributes of files.
//!
//! | name | |
//! |---|---|
//! | `user.*`, `security.capability`, `system.posix_acl_{access,default}` | set |
//! | `{trusted,user}.overlay.*` of the namespace that the layer is written in | set as `….overlay.overlay.*` |
//! | `{trusted,user}.overlay.*` of the other namespace | dropped |
//! | other `trusted.*`, `security.*`, `system.*` and everything else | dropped: about the machine that wrote the archive |
//!
//! Overlayfs acts on its own attributes, and no mount option makes it ignore all of them: one from an archive could open any
//! directory of the lower layers (`overlay.redirect`) or make files disappear. Escaped as the kernel defines for nested
//! overlays (Linux 6.7, `Documentation/filesystems/overlayfs.rst`, "Nesting overlayfs mounts"), they do nothing and are seen in
//! the mounted tree under the name they had in the archive; older kernels hide them. In the other namespace there is no
//! escape, and a later mount with or without `userxattr` would act on them.

use crate::image::OverlayXattrs;

/// What happens with an attribute.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is set under this name.
    Set(Vec<u8>),
    Drop,
}

/// Judges the attribute `name` for a layer whose overlay attributes are in `namespace`.
pub(crate) fn judge(name: &[u8], namespace: OverlayXattrs) -> Verdict {
    let ours = format!("{}.overlay.", namespace.as_str()).into_bytes();
    if let Some(rest) = name.strip_prefix(ours.as_slice()) {
        let escaped = [ours.as_slice(), b"overlay.", rest].concat();
        // XATTR_NAME_MAX: what cannot be escaped is not kept.
        return if escaped.len() <= 255 { Verdict::Set(escaped) } else { Verdict::Drop };
    }
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => {
            Verdict::Set(name.to_vec())
        }
        _ if name.starts_with(b"user.overlay.") => Verdict::Drop,
        // The prefix alone is no name.
        _ if name.len() > 5 && name.starts_with(b"user.") && !name.contains(&0) => Verdict::Set(name.to_vec()),
        _ => Verdict::Drop,
    }
}

/// What xattrs take in memory: beside their own bytes, which may be none, names and values take some themselves. With 256 of one
/// byte for each of half a million entries, that is nearly all.
pub(crate) fn memory_of_xattrs(xattrs: &[(Vec<u8>, Vec<u8>)]) -> usize {
    const BESIDE: usize = size_of::<(Vec<u8>, Vec<u8>)>() + 32;
    xattrs.iter().map(|(name, value)| name.len() + value.len() + BESIDE).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_attributes_never_come_through_as_such() {
        let set = |name: &str| Verdict::Set(name.as_bytes().to_vec());
        for (name, trusted, user) in [
            ("user.a", set("user.a"), set("user.a")),
            ("security.capability", set("security.capability"), set("security.capability")),
            ("system.posix_acl_access", set("system.posix_acl_access"), set("system.posix_acl_access")),
            ("trusted.overlay.opaque", set("trusted.overlay.overlay.opaque"), Verdict::Drop),
            ("trusted.overlay.overlay.opaque", set("trusted.overlay.overlay.overlay.opaque"), Verdict::Drop),
            ("user.overlay.redirect", Verdict::Drop, set("user.overlay.overlay.redirect")),
            ("trusted.a", Verdict::Drop, Verdict::Drop),
            ("user.", Verdict::Drop, Verdict::Drop),
            ("security.selinux", Verdict::Drop, Verdict::Drop),
            ("security.ima", Verdict::Drop, Verdict::Drop),
            ("system.nfs4_acl", Verdict::Drop, Verdict::Drop),
            ("unknown", Verdict::Drop, Verdict::Drop),
        ] {
            assert_eq!(judge(name.as_bytes(), OverlayXattrs::Trusted), trusted, "{name}");
            assert_eq!(judge(name.as_bytes(), OverlayXattrs::User), user, "{name}");
        }
    }
}
