//! The steps that mount an overlay: a temporary upper, lower directories, options.

use std::ffi::{CStr, CString};

use rustix::mount::MountAttrFlags;

use crate::image::OverlayXattrs;
use crate::kernel::{Kernel, LayersBy};
use crate::script::{At, LayerArgument, Script, Slot, Step};
use crate::stack::RootAttributes;

/// Overlayfs takes no more in one mount (`OVL_MAX_STACK`).
pub(crate) const MAX_LOWERS: usize = 500;

/// With the bottom layers in a mount of their own. Only the bottom can be one: whiteouts inside of it do not show outside.
pub(crate) const MAX_LAYERS: usize = 2 * MAX_LOWERS - 1;

/// What is set on every overlay. Layers come from strangers: nothing that they may say in xattrs of overlayfs is followed, and
/// lower layers are shared, so none is indexed.
pub(crate) const OPTIONS: [(&CStr, &CStr); 3] =
    [(c"redirect_dir", c"nofollow"), (c"metacopy", c"off"), (c"index", c"off")];

/// Lower directories, top first as overlayfs wants them.
pub(crate) struct Lowers<'a> {
    pub(crate) top: Vec<LayerArgument<'a>>,
    /// Those that need a mount of their own below `top`; empty for up to [`MAX_LOWERS`] layers.
    pub(crate) bottom: Vec<LayerArgument<'a>>,
}

/// The rest of an overlay.
pub(crate) struct Parts<'a> {
    /// The upper and the work directory.
    pub(crate) upper: [LayerArgument<'a>; 2],
    pub(crate) xattrs: OverlayXattrs,
    pub(crate) attributes: MountAttrFlags,
}

/// Where the tmpfs of a temporary upper is attached while the overlay is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpperPlace {
    /// It is closed afterwards, for which the kernel has whoever does so wait as for an unmount.
    Nowhere,
    /// In the tree of a namespace that is left behind, with which it goes.
    Aside,
    /// Over the root, for kernels that take what is attached only.
    OverRoot,
}

/// A tmpfs with an upper directory that has the image's root attributes, and a work directory.
pub(crate) fn push_upper<'a>(
    script: &mut Script<'a>,
    place: UpperPlace,
    size: Option<u64>,
    attributes: &'a RootAttributes,
    names: Vec<CString>,
    owner: bool,
) -> [LayerArgument<'a>; 2] {
    script.doing("make the temporary upper directory");
    let mut options = vec![(c"source", c"layermount".to_owned()), (c"mode", c"0700".to_owned())];
    if let Some(size) = size {
        options.push((c"size", number(size)));
    }
    let tmpfs = script.new_mount(c"tmpfs", options, MountAttrFlags::empty());
    match place {
        UpperPlace::Nowhere => {}
        UpperPlace::Aside => script.push(Step::PutAside { mount: tmpfs.into() }),
        UpperPlace::OverRoot => script.mount_over_root(tmpfs.into()),
    }
    [(c"upper", true), (c"work", false)].map(|(name, upper)| {
        let directory = script.slot();
        script.push(Step::MakeDirectory { at: tmpfs.into(), path: name.to_owned(), mode: 0o755 });
        script.push(Step::OpenDirectory { at: tmpfs.into(), path: name.to_owned(), readable: upper, into: directory });
        if upper {
            script.push(Step::SetAttributes { of: directory, attributes, names: names.clone(), owner });
        }
        LayerArgument { at: directory.into(), path: None, reopen: None }
    })
}

/// The overlay itself, as a detached mount.
pub(crate) fn push_overlay<'a>(script: &mut Script<'a>, kernel: Kernel, lowers: Lowers<'a>, parts: Parts<'a>) -> Slot {
    let Lowers { mut top, bottom } = lowers;
    let Parts { upper, xattrs, attributes } = parts;
    if !bottom.is_empty() {
        script.doing("mount the bottom layers");
        let nested = push_one(script, kernel, bottom, None, xattrs, MountAttrFlags::MOUNT_ATTR_RDONLY);
        if kernel.needs_private_namespace() {
            script.mount_over_root(nested.into());
        }
        top.push(LayerArgument { at: nested.into(), path: None, reopen: None });
    }
    script.doing("mount the overlay");
    push_one(script, kernel, top, Some(upper), xattrs, attributes)
}

fn push_one<'a>(
    script: &mut Script<'a>,
    kernel: Kernel,
    lowers: Vec<LayerArgument<'a>>,
    upper: Option<[LayerArgument<'a>; 2]>,
    xattrs: OverlayXattrs,
    attributes: MountAttrFlags,
) -> Slot {
    let mount = script.slot();
    if kernel.layers == LayersBy::Joined {
        let mut options: Vec<_> =
            OPTIONS.iter().map(|(key, value)| [key.to_bytes(), value.to_bytes()].join(&b'=')).collect();
        if xattrs == OverlayXattrs::User {
            options.push(b"userxattr".to_vec());
        }
        let options = CString::new(options.join(&b',')).unwrap_or_default();
        let lowers = lowers.into_iter().map(|lower| reopened(script, lower)).collect();
        let upper = upper.map(|layers| layers.map(|layer| reopened(script, layer)));
        script.push(Step::MountJoined { lowers, upper, options, into: mount });
        if attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) {
            script.push(Step::SetReadOnly { mount: mount.into(), recursive: false });
        }
        return mount;
    }
    let context = script.slot();
    script.push(Step::FsOpen { fs: c"overlay", into: context });
    script.push(Step::FsString { context, key: c"source", value: c"layermount".to_owned() });
    let upper = upper.into_iter().flat_map(|[upper, work]| [(c"upperdir", upper), (c"workdir", work)]);
    for (key, layer) in lowers.into_iter().map(|lower| (c"lowerdir+", lower)).chain(upper) {
        let again = layer.reopen.is_some();
        let layer = reopened(script, layer);
        let at = layer.at;
        script.push(match kernel.layers {
            LayersBy::Descriptor => Step::FsFd { context, key, fd: at },
            LayersBy::Path | LayersBy::Joined => Step::FsPath { context, key, layer },
        });
        if let (true, At::Slot(slot)) = (again, at) {
            // Hundreds of layers would reach the limit of open descriptors; overlayfs has its own hold on each by now.
            script.push(Step::Close(slot));
        }
    }
    for (key, value) in OPTIONS {
        script.push(Step::FsString { context, key, value: value.to_owned() });
    }
    if xattrs == OverlayXattrs::User {
        script.push(Step::FsFlag { context, key: c"userxattr" });
    }
    script.push(Step::FsCreate { context });
    script.push(Step::FsMount { context, attributes, into: mount });
    script.push(Step::Close(context));
    mount
}

fn reopened<'a>(script: &mut Script<'a>, layer: LayerArgument<'a>) -> LayerArgument<'a> {
    let LayerArgument { at, path, reopen } = layer;
    let Some(reopen) = reopen else { return LayerArgument { at, path, reopen } };
    let slot = script.slot();
    script.push(Step::Reopen { path: reopen, same_as: at, into: slot });
    LayerArgument { at: slot.into(), path, reopen: None }
}

pub(crate) fn number(number: u64) -> CString {
    CString::new(number.to_string()).unwrap_or_default()
}
