//! A failed step: as bytes through a pipe, and as words.

use rustix::io::Errno;

use super::{Script, Step};
use crate::caller::Caller;
use crate::error::{ErrorKind, Fault, SyscallError};
use crate::userns::{self, Obstacle, Stage};

const TEXT: usize = 480;

/// Which step failed, how, and what the kernel's log said. Made without allocation.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// The number of the step, or what the program that follows the script makes of it.
    pub(crate) position: u32,
    pub(crate) errno: Errno,
    text: [u8; TEXT],
    text_length: u16,
}

impl Failure {
    pub(crate) const ENCODED: usize = 4 + 4 + 2 + TEXT;

    pub(crate) fn new(position: u32, errno: Errno) -> Self {
        Self { position, errno, text: [0; TEXT], text_length: 0 }
    }

    pub(crate) fn append(&mut self, text: &[u8]) {
        let used = usize::from(self.text_length);
        let room = self.text.get_mut(used..).unwrap_or_default();
        let copied = text.len().min(room.len());
        for (to, from) in room.iter_mut().zip(text) {
            *to = *from;
        }
        // At most TEXT.
        self.text_length += copied as u16;
    }

    /// Short enough (below `PIPE_BUF`) to arrive in one piece.
    pub(crate) fn encode(&self) -> [u8; Self::ENCODED] {
        let mut bytes = [0; Self::ENCODED];
        let parts: [&[u8]; 4] = [
            &self.position.to_ne_bytes(),
            &self.errno.raw_os_error().to_ne_bytes(),
            &self.text_length.to_ne_bytes(),
            &self.text,
        ];
        for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (position, rest) = bytes.split_first_chunk()?;
        let (errno, rest) = rest.split_first_chunk()?;
        let (length, text) = rest.split_first_chunk()?;
        Some(Self {
            position: u32::from_ne_bytes(*position),
            errno: Errno::from_raw_os_error(i32::from_ne_bytes(*errno)),
            text: text.try_into().ok()?,
            text_length: u16::from_ne_bytes(*length),
        })
    }

    /// What was [appended](Self::append): the kernel's log, or what a program says that follows the script.
    pub(crate) fn text(&self) -> Option<String> {
        let text = self.text.get(..usize::from(self.text_length))?;
        let text = String::from_utf8_lossy(text).trim().replace('\n', "; ");
        (!text.is_empty()).then_some(text)
    }
}

impl Script<'_> {
    /// Puts a failed step into words.
    pub(crate) fn explain(&self, failure: &Failure) -> ScriptError {
        let step = self.step(failure);
        let (call, arguments, doing) = match step {
            Some((step, doing)) => (step.call(), step.to_string(), *doing),
            None => ("?", String::new(), "run the prepared steps"),
        };
        let cause = SyscallError::new(call, arguments, failure.errno).with_kernel_log(failure.text());
        let advice = step.and_then(|(step, _)| advice(step, doing, failure.errno));
        ScriptError { doing, advice, cause }
    }

    /// How far a process came in a user namespace whose script failed so.
    pub(super) fn stage(&self, failure: &Failure) -> Stage {
        match self.step(failure) {
            Some((Step::Unshare(_), _)) => Stage::Make,
            Some((Step::WriteProc { .. }, _)) => Stage::Map,
            _ => Stage::Use,
        }
    }

    fn step(&self, failure: &Failure) -> Option<&(Step<'_>, &'static str)> {
        self.steps.get(usize::try_from(failure.position).ok()?)
    }
}

/// A prepared step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}")]
pub(crate) struct ScriptError {
    doing: &'static str,
    advice: Option<String>,
    #[source]
    cause: SyscallError,
}

impl Fault for ScriptError {
    fn kind(&self) -> ErrorKind {
        self.cause.kind()
    }

    fn hint(&self) -> Option<String> {
        self.advice.clone()
    }
}

impl ScriptError {
    /// The child that ran the script ended without a word.
    pub(crate) fn silent() -> Self {
        let cause = SyscallError::new("read", "the child's report", Errno::PIPE);
        Self { doing: "hear from the child process, which was probably killed", advice: None, cause }
    }
}

fn advice(step: &Step<'_>, doing: &str, errno: Errno) -> Option<String> {
    let of_namespace = |stage| userns::hint(stage, errno);
    Some(match (step, errno) {
        (Step::Unshare(flags), Errno::PERM | Errno::NOSPC | Errno::INVAL)
            if flags.contains(rustix::thread::UnshareFlags::NEWUSER) =>
        {
            of_namespace(Stage::Make)
        }
        (Step::WriteProc { .. }, Errno::PERM | Errno::ACCESS | Errno::NOENT) => of_namespace(Stage::Map),
        // Where namespaces are made, and what they are for is refused.
        (Step::FsOpen { .. } | Step::FsCreate { .. } | Step::FsMount { .. }, Errno::PERM | Errno::ACCESS)
            if !Caller::current().is_privileged() && Obstacle::find(Stage::Use, errno) != Obstacle::Unknown =>
        {
            of_namespace(Stage::Use)
        }
        _ => fixed_advice(step, doing, errno)?.to_owned(),
    })
}

fn fixed_advice(step: &Step<'_>, doing: &str, errno: Errno) -> Option<&'static str> {
    Some(match (step, errno) {
        (Step::JoinNetwork { .. }, Errno::PERM | Errno::ACCESS) => {
            "a network namespace can be joined by root, and by whoever has made it, in the user namespace that owns it"
        }
        (Step::JoinNetwork { .. }, Errno::SRCH) => "the process has ended",
        (Step::JoinNetwork { .. }, Errno::INVAL) => "the network of a process can be joined since Linux 5.8",
        (Step::OpenDirectory { .. } | Step::OpenPlace { .. }, Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
            "the image has a link or a file where an ordinary directory must be; such an image is not furnished"
        }
        (Step::OpenTarget { .. }, Errno::NOTDIR | Errno::ISDIR | Errno::EXIST) => {
            "a directory can only be mounted on a directory and a file on a file; look at what the image has there"
        }
        (Step::OpenTarget { .. } | Step::OpenPlace { .. } | Step::MakeDirectory { .. }, Errno::ACCESS) => {
            "without privileges, mount points can be made only in layers that belong to the caller"
        }
        (Step::OpenTarget { .. }, Errno::PERM) => {
            "in /proc, only cpuinfo, diskstats, loadavg, meminfo, slabinfo, stat, swaps, uptime and sys/crypto/fips_enabled can \
             be covered: what else it tells has to be the kernel's"
        }
        (Step::OpenTarget { .. }, Errno::NOENT | Errno::ROFS) => {
            "the mount point is missing, and cannot be made where it lies: not in /proc or /sys, nor in a mount that is read-only"
        }
        (Step::CopyTree { .. }, Errno::NOSPC | Errno::NOMEM) => {
            "a volume holds half of the machine's memory unless another size is given; bind a directory there, or ignore the volume"
        }
        (Step::OpenTree { recursive: false, .. }, Errno::INVAL) => {
            "what is mounted below it cannot be left out in a user namespace, where that would uncover what lies under it"
        }
        (Step::CopyTree { .. }, Errno::LOOP) => "its directories lie too deep in each other; bind a directory there",
        (Step::OpenTarget { .. }, Errno::BUSY) => "the image's root directory itself cannot be a mount point",
        (Step::MakePrivate, Errno::INVAL) | (Step::Enter { .. }, Errno::INVAL) => {
            "the root directory is not a mount point: this is a chroot, or the initial ramfs, from which there is no \
             pivot_root; `mount --bind DIR DIR` before chroot makes it one"
        }
        (Step::FsFd { key, .. } | Step::FsPath { key, .. }, Errno::INVAL) if *key == c"upperdir" => {
            "an upper directory cannot lie on overlayfs, NFS or vfat: choose one on ext4, xfs, btrfs or tmpfs"
        }
        (Step::OpenTarget { .. }, Errno::LOOP) => "the path inside the image leads in a circle of symbolic links",
        (Step::FsOpen { .. }, Errno::NODEV) => "this kernel lacks the file system; `modprobe` its module",
        (Step::FsOpen { .. }, Errno::NOSYS) => {
            "layermount needs the mount API of Linux 5.2, which this kernel or a seccomp filter hides"
        }
        (Step::OpenDirectory { .. } | Step::OpenPlace { .. } | Step::OpenTarget { .. }, Errno::NOSYS) => {
            "layermount needs openat2(2) of Linux 5.6, which this kernel or a seccomp filter hides"
        }
        (Step::SetReadOnly { .. } | Step::Restrict { .. }, Errno::NOSYS) => {
            "read-only mounts and the like need mount_setattr(2), Linux 5.12"
        }
        (Step::FsMount { .. } | Step::FsCreate { .. }, Errno::PERM | Errno::ACCESS) => {
            "a security module, a seccomp filter or partly hidden /proc or /sys mounts of an outer container forbid this mount"
        }
        (Step::FsCreate { .. }, Errno::INVAL | Errno::UCLEAN) if doing == crate::erofs::MOUNTING => {
            "the files may be damaged: 'layermount store verify' marks those that are, so that pulling makes them anew"
        }
        (Step::FsCreate { .. }, Errno::INVAL) => {
            "an ordinary user cannot use a directory as a layer below which other file systems are mounted"
        }
        (Step::FsCreate { .. }, Errno::LOOP) => "two layers are the same directory, or one lies inside another",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_survive_the_pipe() {
        let mut failure = Failure::new(7, Errno::LOOP);
        failure.append(b"overlay: too deep\n");
        let back = Failure::decode(&failure.encode()).unwrap();
        assert_eq!((back.position, back.errno), (7, Errno::LOOP));
        assert_eq!(back.text().as_deref(), Some("overlay: too deep"));
        assert!(Failure::decode(b"short").is_none());
        for _ in 0..100 {
            failure.append(b"0123456789");
        }
        assert!(failure.text().unwrap().len() >= TEXT);
    }
}
