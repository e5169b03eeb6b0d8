//! The store, and what its file system can hold.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, XattrFlags, makedev};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::namespace::MappedNamespace;
use super::probe::{Outcome, Probe, Shortcoming, Subject, Weight};
use crate::caller::Caller;
use crate::error::{Result, SyscallContext, SyscallError};
use crate::image::OverlayXattrs;
use crate::kernel::Kernel;
use crate::overlay::trial::{DIRECTORY, Trial};
use crate::store::{Rehearsal, Store};
use crate::sys::fork;

const ANOTHER: &str = "--store DIR or LAYERMOUNT_STORE names another place, for instance on ext4, xfs, btrfs or tmpfs";

pub(super) fn probes(
    store: &Result<Store>,
    caller: &Caller,
    kernel: Option<Kernel>,
    ids: Option<&MappedNamespace>,
) -> Vec<Probe> {
    let store = match store {
        Ok(store) => store,
        Err(error) => {
            let shortcoming = Shortcoming::of(Weight::Prevents, error, "no image can be looked for");
            let place = Probe::new(Subject::Store, Outcome::Fails(shortcoming.or_remedy(ANOTHER)));
            let others = [Subject::StoreSpace, Subject::Layers, Subject::ErofsFiles];
            let others = others.map(|subject| Probe::new(subject, Outcome::NotTried(Subject::Store)));
            return [place].into_iter().chain(others).collect();
        }
    };
    let place = place(store);
    let is_writable = matches!(place, Outcome::Works(_));
    let if_writable = |try_it: &dyn Fn() -> Outcome| match is_writable {
        true => try_it(),
        false => Outcome::NotTried(Subject::Store),
    };
    let erofs = match caller.may_mount_erofs() {
        true => if_writable(&|| erofs_files(store)),
        false => Outcome::NotNeeded("layers of all but the machine's root are directories".to_owned()),
    };
    vec![
        Probe::new(Subject::Store, place),
        Probe::new(Subject::StoreSpace, space(store)),
        Probe::new(Subject::Layers, if_writable(&|| layers(store, caller, kernel, ids))),
        Probe::new(Subject::ErofsFiles, erofs),
    ]
}

fn place(store: &Store) -> Outcome {
    let shown = store.path().display();
    let found = store.nearest_directory().and_then(|(path, directory)| {
        store.rehearse(|_| Ok(()))?;
        let stat = rustix::fs::fstat(&directory).syscall("fstat", || path.display().to_string())?;
        Ok(match store.exists() {
            true => format!("{shown}, of uid {}, mode {:04o}", stat.st_uid, stat.st_mode & 0o7777),
            false => format!("{shown}, which does not exist yet"),
        })
    });
    match found {
        Ok(found) => Outcome::Works(found),
        Err(error) => {
            let holds_layers = store.layers().is_ok_and(|layers| !layers.is_empty());
            let (weight, consequence) = match holds_layers {
                true => (
                    Weight::Impairs,
                    "only images that are in it already run, and those that lie elsewhere as directories",
                ),
                false => (Weight::Prevents, "there is no place for images"),
            };
            let shortcoming = Shortcoming::of(weight, &error.context(format!("cannot write to {shown}")), consequence);
            Outcome::Fails(shortcoming.or_remedy(ANOTHER))
        }
    }
}

fn space(store: &Store) -> Outcome {
    let looked = store.nearest_directory().and_then(|(path, directory)| {
        let stat = rustix::fs::fstatvfs(&directory).syscall("fstatvfs", || path.display().to_string())?;
        let kind = file_system(directory.as_fd()).unwrap_or_else(|| "a file system without a name".to_owned());
        Ok((kind, stat.f_bavail.saturating_mul(stat.f_frsize)))
    });
    match looked {
        Ok((kind, 0)) => {
            let consequence = "no layer can be brought into the store";
            let full = Shortcoming::new(Weight::Impairs, format!("{kind}, which is full"), consequence);
            Outcome::Fails(full.with_remedy(format!("make room ('layermount store prune'); {ANOTHER}")))
        }
        Ok((kind, free)) => Outcome::Works(format!("{kind}, {} MiB free", free >> 20)),
        Err(error) => Outcome::Fails(Shortcoming::of(Weight::Impairs, &error, "how much room there is, is not known")),
    }
}

/// The type of the file system, by the mount that a descriptor belongs to: device numbers do not tell those of btrfs.
fn file_system(directory: BorrowedFd<'_>) -> Option<String> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", directory.as_raw_fd())).ok()?;
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    type_of_mount(&std::fs::read_to_string("/proc/self/mountinfo").ok()?, mount)
}

fn type_of_mount(mountinfo: &str, mount: &str) -> Option<String> {
    let line = mountinfo.lines().find(|line| line.split(' ').next() == Some(mount))?;
    Some(line.split(' ').skip_while(|word| *word != "-").nth(1)?.to_owned())
}

/// All that a layer as a directory is made of.
fn layers(store: &Store, caller: &Caller, kernel: Option<Kernel>, ids: Option<&MappedNamespace>) -> Outcome {
    let tried = store.rehearse(|rehearsal| {
        let layer = rehearsal.make("layer")?;
        rehearsal.whiteout(layer.as_fd())?;
        rehearsal.opaque(layer.as_fd(), caller.overlay_xattrs())?;
        if let Some((namespace, uid, gid)) = ids.map(MappedNamespace::stranger).transpose()?.flatten() {
            give_away(layer.as_fd(), namespace.as_fd(), uid, gid)?;
        }
        let Some(kernel) = kernel else { return Ok(None) };
        let path = rehearsal.path.join("layer");
        let trial = Trial::new(kernel, caller).over(layer.as_fd(), &path);
        Ok(trial.run().err().map(|refusal| refusal.error))
    });
    let consequence =
        "images have to lie elsewhere as directories already (Docker's overlay2, rootfs:DIR): no layer can be unpacked";
    match tried {
        Ok(None) => Outcome::Works("whiteouts, opaque directories and owners can be kept".to_owned()),
        Ok(Some(error)) | Err(error) => {
            let weight = if caller.may_mount_erofs() { Weight::Impairs } else { Weight::Prevents };
            Outcome::Fails(Shortcoming::of(weight, &error, consequence).or_remedy(ANOTHER))
        }
    }
}

impl Rehearsal<'_> {
    fn make(&self, name: &'static str) -> Result<OwnedFd, SyscallError> {
        let shown = || self.path.join(name).display().to_string();
        rustix::fs::mkdirat(self.directory, name, Mode::RWXU).syscall("mkdirat", shown)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let layer = rustix::fs::openat(self.directory, name, flags, Mode::empty()).syscall("openat", shown)?;
        rustix::fs::mkdirat(&layer, DIRECTORY, Mode::RWXU).syscall("mkdirat", shown)?;
        Ok(layer)
    }

    fn whiteout(&self, layer: BorrowedFd<'_>) -> Result<(), SyscallError> {
        rustix::fs::mknodat(layer, "whiteout", FileType::CharacterDevice, Mode::empty(), makedev(0, 0))
            .syscall("mknodat", || "\"whiteout\", S_IFCHR, makedev(0, 0)".to_owned())
    }

    fn opaque(&self, layer: BorrowedFd<'_>, xattrs: OverlayXattrs) -> Result<(), SyscallError> {
        let name = match xattrs {
            OverlayXattrs::Trusted => "trusted.overlay.opaque",
            OverlayXattrs::User => "user.overlay.opaque",
        };
        rustix::fs::fsetxattr(layer, name, b"y", XattrFlags::empty())
            .syscall("fsetxattr", || format!("{name:?}, \"y\""))
    }
}

/// Gives a directory to one of the users of a namespace, as only somebody in there can.
fn give_away(directory: BorrowedFd<'_>, namespace: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), SyscallError> {
    use rustix::fs::{Gid, Uid, fchown};
    let own = rustix::fs::fstat(directory).syscall("fstat", || "a layer".to_owned())?;
    let status = fork::run(0, &mut || {
        let given = move_into_link_name_space(namespace, Some(LinkNameSpaceType::User))
            .and_then(|()| fchown(directory, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))
            // The caller is root there.
            .and_then(|()| fchown(directory, Some(Uid::ROOT), Some(Gid::ROOT)));
        given.map_or_else(|errno| errno.raw_os_error(), |()| 0)
    });
    let shown = || format!("a directory of uid {}, {uid}, {gid}", own.st_uid);
    match status.syscall("clone3", || "0".to_owned())? {
        Some(0) => Ok(()),
        Some(errno) => Err(rustix::io::Errno::from_raw_os_error(errno)).syscall("fchown", shown),
        None => Err(rustix::io::Errno::CHILD).syscall("fchown", shown),
    }
}

fn erofs_files(store: &Store) -> Outcome {
    match store.rehearse(|rehearsal| rehearsal.mount_erofs()) {
        Ok(()) => Outcome::Works("the kernel mounts them out of the store".to_owned()),
        Err(error) => Outcome::Fails(
            Shortcoming::of(Weight::Impairs, &error, "layers are unpacked to directories, which takes longer")
                .or_remedy("Linux 6.12 (CONFIG_EROFS_FS_BACKED_BY_FILE), and a store on ext4, xfs or btrfs"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_has_a_type() {
        let mountinfo = "23 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n230 23 0:5 / /a - b rw - tmpfs x rw\n";
        assert_eq!(type_of_mount(mountinfo, "23").as_deref(), Some("ext4"));
        assert_eq!(type_of_mount(mountinfo, "2"), None);
    }
}
