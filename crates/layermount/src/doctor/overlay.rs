//! Mounting layers, in a child that has what namespaces the caller's programs will have.

use std::ffi::CString;

use rustix::mount::MountAttrFlags;

use super::namespace::refused;
use super::probe::{Outcome, Probe, Shortcoming, Subject, Weight};
use crate::caller::Caller;
use crate::image::OverlayXattrs;
use crate::kernel::{Kernel, LayersBy};
use crate::overlay::steps::{UpperPlace, push_upper};
use crate::overlay::trial::Trial;
use crate::script::{Refused, Script, Step, try_in_child};
use crate::stack::RootAttributes;

/// What works, and how.
pub(super) struct Overlays {
    pub(super) probes: Vec<Probe>,
    /// The newest generation that does.
    pub(super) kernel: Option<Kernel>,
}

pub(super) fn probes(caller: &Caller, before: &[Probe]) -> Overlays {
    let missing = before.iter().find(|probe| probe.subject() == Subject::UserNamespaces && !probe.works());
    if caller.needs_user_namespace() && missing.is_some() {
        let subjects = [Subject::Overlay, Subject::OpaqueDirectories, Subject::TmpfsXattrs, Subject::ReadOnlyMounts];
        let not_tried = |subject| Probe::new(subject, Outcome::NotTried(Subject::UserNamespaces));
        return Overlays { probes: subjects.map(not_tried).into(), kernel: None };
    }
    let (overlay, kernel) = overlay(caller);
    let probes = vec![
        Probe::new(Subject::Overlay, overlay),
        Probe::new(Subject::OpaqueDirectories, opaque_directories(caller, kernel)),
        Probe::new(Subject::TmpfsXattrs, tmpfs_xattrs(caller)),
        Probe::new(Subject::ReadOnlyMounts, read_only_mounts(caller)),
    ];
    Overlays { probes, kernel }
}

fn overlay(caller: &Caller) -> (Outcome, Option<Kernel>) {
    let mut first = None;
    for kernel in Kernel::GENERATIONS {
        match Trial::new(kernel, caller).run() {
            Ok(()) => return (Outcome::Works(describe(kernel).to_owned()), Some(kernel)),
            // That of the oldest way says the least: it is one call.
            Err(refusal) => first = first.or(Some(refusal)),
        }
    }
    let consequence = "no image can be mounted";
    let outcome = match first {
        Some(refusal) => refused(caller, &refusal, consequence)
            .or_remedy("Linux 5.11 (CONFIG_OVERLAY_FS, `modprobe overlay`), outside of containers that forbid mounts"),
        None => Shortcoming::new(Weight::Prevents, "no way to mount an overlay is known", consequence),
    };
    (Outcome::Fails(outcome), None)
}

fn describe(kernel: Kernel) -> &'static str {
    match (kernel.layers, kernel.detached_layers) {
        (LayersBy::Descriptor, true) => "layers by descriptor, detached ones, too (as since Linux 6.15)",
        (LayersBy::Descriptor, false) => "layers by descriptor (as since Linux 6.13)",
        (LayersBy::Path, _) => "layers one by one, by path (as since Linux 6.8)",
        (LayersBy::Joined, _) => "layers in one option of at most 4095 bytes (as before Linux 6.8)",
    }
}

fn opaque_directories(caller: &Caller, kernel: Option<Kernel>) -> Outcome {
    let Some(kernel) = kernel else { return Outcome::NotTried(Subject::Overlay) };
    match Trial::new(kernel, caller).recreating().run() {
        Ok(()) => Outcome::Works("directories that were removed can be made again".to_owned()),
        Err(refusal) => Outcome::Fails(
            Shortcoming::of(
                Weight::Impairs,
                &refusal.error,
                "what a program changes lies on the store's disk instead of in memory",
            )
            .with_remedy("Linux 6.6 (CONFIG_TMPFS_XATTR)"),
        ),
    }
}

fn tmpfs_xattrs(caller: &Caller) -> Outcome {
    if caller.overlay_xattrs() == OverlayXattrs::Trusted {
        return Outcome::NotNeeded("root's overlays have trusted xattrs".to_owned());
    }
    let name = c"user.layermount";
    let xattrs = vec![(name.to_bytes().to_vec(), b"y".to_vec())];
    let attributes = RootAttributes { xattrs, ..RootAttributes::default() };
    let mut script = Script::new();
    caller.push_id_maps(&mut script);
    push_upper(&mut script, UpperPlace::Nowhere, None, &attributes, vec![name.to_owned()], false);
    match run(&script, caller) {
        Ok(()) => Outcome::Works("user.* can be set".to_owned()),
        Err(_) => Outcome::Fails(
            Shortcoming::new(
                Weight::Impairs,
                "setting user.* on tmpfs fails",
                "what a program changes lies on the store's disk instead of in memory",
            )
            .with_remedy("Linux 6.6 (CONFIG_TMPFS_XATTR)"),
        ),
    }
}

fn read_only_mounts(caller: &Caller) -> Outcome {
    let mut script = Script::new();
    caller.push_id_maps(&mut script);
    let source = vec![(c"source", CString::from(c"layermount"))];
    let mount = script.doing("mount a tmpfs").new_mount(c"tmpfs", source, MountAttrFlags::empty());
    script.doing("make a mount read-only").push(Step::SetReadOnly { mount: mount.into(), recursive: true });
    match run(&script, caller) {
        Ok(()) => Outcome::Works("mount_setattr makes trees and binds read-only".to_owned()),
        Err(refusal) => Outcome::Fails(
            Shortcoming::of(Weight::Impairs, &refusal.error, "--read-only and volumes with :ro fail")
                .or_remedy("Linux 5.12, and no seccomp filter that hides mount_setattr"),
        ),
    }
}

fn run(script: &Script<'_>, caller: &Caller) -> Result<(), Refused> {
    try_in_child(script, nix::libc::CLONE_NEWNS | caller.clone_flags())
}
