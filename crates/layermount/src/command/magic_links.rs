//! A program must not be a file of the host's by way of a link in `/proc`.
//!
//! `execve(2)` follows links, also the magic ones of `/proc`, which lead to files that have no path inside: `/proc/self/exe` to
//! this very binary, `/proc/self/fd/*` to whatever is open here, the descriptors that are to be closed by `execve` included,
//! because it resolves names before it closes them. An image whose program is such a link, or has it for the interpreter in its
//! `#!` line, has the host's binary run *inside*, with the image's C library, and then holds a way to that file: it opens
//! `/proc/self/exe` with `O_PATH`, executes something else, and opens that descriptor again for writing. That is CVE-2019-5736 and,
//! through a directory, CVE-2024-21626. As root without a user namespace nothing else stands in the way but `ETXTBSY`, for as long
//! as some process executes the file: not after [`Entered::exec`](crate::Entered::exec), nor when whoever has spawned the program
//! was killed, nor on Linux 6.11, which had no `ETXTBSY`.
//!
//! So the way to the program, to the interpreters of its `#!` lines, and to the loader of an ELF file is looked at first, as the
//! kernel will go, and refused when it has a magic link: openat2(2), `RESOLVE_NO_MAGICLINKS`. That costs three opens of files that
//! are about to be opened anyway. It is done with the privileges that layermount still has then, so that a program that may be
//! executed but not read is no exception.
//!
//! Between this look and `execve` nobody but layermount's own process is there to change the image, unless its tree is shared with
//! other programs that are hostile: a bind mount that others write to, and a program in it. For those, no descriptor but those for
//! the program is left open at the end (in a child), and [`RootMount::spawn`](crate::RootMount::spawn) looks at what is being
//! executed afterwards. What is out of reach here are handlers of binfmt_misc without the `F` flag, which the kernel looks for
//! inside: the latter goes for these, too.
//!
//! Sources: `load_script` of Linux's `fs/binfmt_script.c` for the first, `load_elf_binary` of `fs/binfmt_elf.c` for the other;
//! elf(5).

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::{Errno, pread};

type Result<T, E = Errno> = std::result::Result<T, E>;

/// The kernel follows five, and answers `ELOOP` for the sixth.
const INTERPRETERS: usize = 6;

/// What the kernel looks at of a script (`BINPRM_BUF_SIZE`).
const LINE: usize = 256;

/// Covers the program headers and the loader's name of what linkers usually make.
const HEAD: usize = 1024;

const PATH_MAX: usize = 4096;

/// `ELOOP` when a magic link is on the way. Other errors are `execve`'s to find. Async-signal-safe.
pub(super) fn refuse(program: &CStr) -> Result<()> {
    let mut name = [0; LINE];
    let mut file = match open(program, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Err(Errno::LOOP) => return Err(Errno::LOOP),
        Err(Errno::ACCESS | Errno::PERM) => return open(program, OFlags::PATH).map(drop).or_else(only_loops),
        Err(_) => return Ok(()),
        Ok(file) => file,
    };
    for _ in 0..INTERPRETERS {
        let mut head = [0; HEAD];
        let read = pread(&file, &mut head, 0).unwrap_or(0);
        let head = head.get(..read).unwrap_or_default();
        if head.starts_with(b"\x7fELF") {
            return refuse_loader(file.as_fd(), head);
        }
        let Some(interpreter) = interpreter(head, &mut name) else { return Ok(()) };
        file = match open(interpreter, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
            Err(Errno::ACCESS | Errno::PERM) => return open(interpreter, OFlags::PATH).map(drop).or_else(only_loops),
            Err(errno) => return only_loops(errno),
            Ok(file) => file,
        };
    }
    Ok(())
}

/// Whether a child that has executed something executes the file that this process does, by the way that is known here: not by a
/// bind mount of it. `false` where `/proc` does not say.
pub(super) fn runs_this_binary(child: u32) -> bool {
    static OWN: OnceLock<Option<Identity>> = OnceLock::new();
    let own = OWN.get_or_init(|| identify("/proc/self/exe"));
    own.is_some() && identify(&format!("/proc/{child}/exe")) == *own
}

/// Device, inode, and the mount that it was reached by (0 before Linux 5.8).
type Identity = (u32, u32, u64, u64);

fn identify(path: &str) -> Option<Identity> {
    let statx = fs::statx(CWD, path, AtFlags::empty(), StatxFlags::INO | StatxFlags::MNT_ID).ok()?;
    Some((statx.stx_dev_major, statx.stx_dev_minor, statx.stx_ino, statx.stx_mnt_id))
}

fn only_loops(errno: Errno) -> Result<()> {
    if errno == Errno::LOOP { Err(errno) } else { Ok(()) }
}

fn open(path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    fs::openat2(CWD, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
}

/// What a `#!` line names, as the kernel takes it: up to a space, a tab or the end of the line, all of it in the first 256 bytes.
fn interpreter<'a>(head: &[u8], name: &'a mut [u8; LINE]) -> Option<&'a CStr> {
    let line = head.get(..LINE.min(head.len()))?.strip_prefix(b"#!")?;
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = line.iter().position(|byte| !blank(byte))?;
    let rest = line.get(start..)?;
    // A file that is shorter ends in zeros.
    let end = rest.iter().position(|byte| blank(byte) || matches!(byte, b'\n' | 0)).unwrap_or(rest.len());
    let path = rest.get(..end).filter(|path| !path.is_empty())?;
    name.get_mut(..end)?.copy_from_slice(path);
    *name.get_mut(end)? = 0;
    CStr::from_bytes_until_nul(name).ok()
}

/// The loader of an ELF file: the first segment of type `PT_INTERP`.
fn refuse_loader(file: BorrowedFd<'_>, head: &[u8]) -> Result<()> {
    let mut path = [0; PATH_MAX];
    match loader(file, head, &mut path).and_then(|length| CStr::from_bytes_until_nul(path.get(..length)?).ok()) {
        Some(loader) => open(loader, OFlags::PATH).map(drop).or_else(only_loops),
        None => Ok(()),
    }
}

/// Its name's length. `None` for a file without, and for one that the kernel would not take either.
fn loader(file: BorrowedFd<'_>, head: &[u8], path: &mut [u8; PATH_MAX]) -> Option<usize> {
    const PT_INTERP: u64 = 3;
    // EI_CLASS: where the fields are. The kernel takes only its own byte order.
    let elf = match head.get(4)? {
        2 => Elf { phoff: (32, 8), phentsize: 54, phnum: 56, offset: (8, 8), size: (32, 8) },
        1 => Elf { phoff: (28, 4), phentsize: 42, phnum: 44, offset: (4, 4), size: (16, 4) },
        _ => return None,
    };
    let (table, each, count) =
        (number(head, elf.phoff)?, number(head, (elf.phentsize, 2))?, number(head, (elf.phnum, 2))?);
    let mut header = [0; 64];
    let header = header.get_mut(..usize::try_from(each).ok()?)?;
    for index in 0..count {
        read_at(file, head, table.checked_add(index * each)?, header)?;
        if number(header, (0, 4))? == PT_INTERP {
            let size = usize::try_from(number(header, elf.size)?).ok()?;
            read_at(file, head, number(header, elf.offset)?, path.get_mut(..size)?)?;
            return Some(size);
        }
    }
    None
}

/// Where fields are, with their sizes: `Elf64_Ehdr` and `Elf64_Phdr`, or those of 32 bits.
struct Elf {
    phoff: (usize, usize),
    phentsize: usize,
    phnum: usize,
    offset: (usize, usize),
    size: (usize, usize),
}

fn number(bytes: &[u8], (at, size): (usize, usize)) -> Option<u64> {
    let bytes = bytes.get(at..at + size)?;
    let add = |all: u64, byte: &u8| all << 8 | u64::from(*byte);
    Some(if cfg!(target_endian = "little") { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) })
}

/// From what has been read, if it is there.
fn read_at(file: BorrowedFd<'_>, head: &[u8], at: u64, into: &mut [u8]) -> Option<()> {
    let start = usize::try_from(at).ok();
    match start.and_then(|start| head.get(start..start.checked_add(into.len())?)) {
        Some(known) => into.copy_from_slice(known),
        None if pread(file, &mut *into, at).ok()? == into.len() => {}
        None => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "files for tests are made by path")]

    use std::ffi::CString;
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn lines_are_read_as_the_kernel_does() {
        let found = |head: &[u8]| interpreter(head, &mut [0; LINE]).map(CStr::to_owned);
        for (head, expected) in [
            (&b"#!/bin/sh\n"[..], Some(c"/bin/sh")),
            (b"#! \t /bin/sh -e x\n", Some(c"/bin/sh")),
            (b"#!/bin/sh\t-e", Some(c"/bin/sh")),
            (b"#!/bin/sh", Some(c"/bin/sh")),
            (b"#!/a\0/b\n", Some(c"/a")),
            (b"#!\n", None),
            (b"#!", None),
            (b" #!/bin/sh\n", None),
            (b"", None),
        ] {
            assert_eq!(found(head).as_deref(), expected, "{head:?}");
        }
        let long = [b"#!/", [b'a'; 300].as_slice()].concat();
        assert_eq!(found(&long).unwrap().count_bytes(), LINE - 2);
    }

    /// A minimal file of one segment, its name behind `gap` bytes.
    fn elf(loader: &str, gap: usize) -> Vec<u8> {
        let mut file = vec![0; 64 + 56 + gap];
        file[..5].copy_from_slice(b"\x7fELF\x02");
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        file[64] = 3;
        let at = file.len() as u64;
        file[72..80].copy_from_slice(&at.to_ne_bytes());
        file[96..104].copy_from_slice(&(loader.len() as u64 + 1).to_ne_bytes());
        file.extend(loader.as_bytes());
        file.push(0);
        file
    }

    #[test]
    fn magic_links_are_found_wherever_the_kernel_would_follow_one() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        let refused = |name: &str| refuse(&CString::new(path(name).as_os_str().as_bytes()).unwrap()).is_err();
        symlink("/proc/self/exe", path("link")).unwrap();
        symlink("link", path("twice")).unwrap();
        symlink("/proc/self/root/bin/sh", path("root")).unwrap();
        symlink("/proc/self/cwd/x", path("cwd")).unwrap();
        symlink("/bin/sh", path("sh")).unwrap();
        symlink("/proc/self/status", path("status")).unwrap();
        let link = path("link");
        let link = link.to_str().unwrap();
        fs::write(path("script"), format!("#! {link} x\n")).unwrap();
        fs::write(path("nested"), format!("#!{}\n", path("script").display())).unwrap();
        fs::write(path("plain"), "#!/bin/sh\n").unwrap();
        fs::write(path("loader"), elf(link, 0)).unwrap();
        fs::write(path("far"), elf(link, 5000)).unwrap();
        fs::write(path("exe"), elf("/proc/self/exe", 3)).unwrap();
        fs::write(path("usual"), elf("/lib64/ld-linux-x86-64.so.2", 0)).unwrap();
        fs::write(path("by-loader"), format!("#!{}\n", path("far").display())).unwrap();
        for name in ["link", "twice", "root", "cwd", "script", "nested", "loader", "far", "exe", "by-loader"] {
            assert!(refused(name), "{name}");
        }
        for name in ["sh", "plain", "usual", "status", "missing"] {
            assert!(!refused(name), "{name}");
        }
        // A circle ends, and is the kernel's to refuse.
        fs::write(path("circle"), format!("#!{}\n", path("circle").display())).unwrap();
        assert!(!refused("circle"));
        for length in 0..elf(link, 0).len() {
            fs::write(path("cut"), &elf(link, 0)[..length]).unwrap();
            assert!(!refused("cut"));
        }
    }
}
