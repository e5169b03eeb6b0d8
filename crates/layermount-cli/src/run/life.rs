//! `--pidfile`, `--cidfile`, `--die-with-parent`, and the flags about signals.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use layermount::{Child, Command, ErrorKind};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::args::Life;
use crate::failure::{Failure, Result};
use crate::random;

const PID_FOUND: &str = "process ID file found, make sure the other program isn't running or delete";
/// In docker's words.
const CID_FOUND: &str = "container ID file found, make sure the other container isn't running or delete";

/// What tells others of a run.
#[derive(Debug)]
pub(super) struct Marks {
    pidfile: Option<Reserved>,
    cidfile: Option<Mark>,
    id: Option<String>,
    parent: Option<Parent>,
}

impl Marks {
    /// As early as possible. The ID can be read before the program runs.
    pub(super) fn make(args: &Life) -> Result<Self> {
        let parent = args.die_with_parent.then(Parent::now);
        let pidfile = args.pidfile.as_ref().map(|file| Reserved::at(file, PID_FOUND)).transpose()?;
        let mut marks = Self { pidfile, cidfile: None, id: None, parent };
        if let Some(file) = &args.cidfile {
            let reserved = Reserved::at(file, CID_FOUND)?;
            let id = random_id()?;
            marks.cidfile = Some(reserved.publish(&id)?);
            marks.id = Some(id);
        }
        Ok(marks)
    }

    pub(super) fn apply(&self, args: &Life, hostname_is_free: bool, command: &mut Command) {
        if let Some(hostname) = self.id.as_ref().and_then(|id| id.get(..12)).filter(|_| hostname_is_free) {
            command.hostname(hostname);
        }
        if let Some(signal) = args.stop_signal {
            command.stop_signal(signal);
        }
        command.init(args.init);
    }

    /// Right before the program is started, as the kernel forgets it when a process gets other capabilities.
    pub(super) fn bind_to_parent(&self) -> Result<()> {
        self.parent.as_ref().map_or(Ok(()), Parent::bind)
    }

    /// What is left while the program runs: the ID stays for good, the number until it is dropped.
    pub(super) fn program_runs(self, child: &mut Child) -> Result<Option<Mark>> {
        let pidfile = self.pidfile.map(|file| file.publish(&format!("{}\n", child.program_id()))).transpose();
        if pidfile.is_err() {
            child.kill()?;
            child.wait()?;
        } else if let Some(mark) = self.cidfile {
            mark.keep();
        }
        pidfile
    }
}

/// A file that is removed again.
#[derive(Debug)]
pub(crate) struct Mark {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

/// A file that has no name yet, or one that nobody looks for, so that it comes whole or not at all.
#[derive(Debug)]
struct Reserved {
    file: File,
    path: PathBuf,
    /// Where the file system has no files without a name (open(2), `O_TMPFILE`).
    hidden: Option<PathBuf>,
    /// What is said when the place is taken.
    found: &'static str,
}

impl Reserved {
    /// Fails where it could not be written either.
    fn at(path: &Path, found: &'static str) -> Result<Self> {
        let shown = path.display();
        match path.symlink_metadata() {
            Ok(_) => return Err(Failure::new(ErrorKind::Busy, format!("{found} {shown}"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::io(format!("cannot write {shown}"), error)),
        }
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let unnamed =
            rustix::fs::open(directory, flags, Mode::from_raw_mode(0o644)).map(|file| (File::from(file), None));
        let made = match unnamed {
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let mut hidden = path.as_os_str().to_owned();
                hidden.push(format!(".{}", std::process::id()));
                let named = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&hidden);
                named.map(|file| (file, Some(PathBuf::from(hidden))))
            }
            unnamed => unnamed.map_err(io::Error::from),
        };
        let (file, hidden) = made.map_err(|error| Failure::io(format!("cannot write {shown}"), error))?;
        Ok(Self { file, path: path.to_owned(), hidden, found })
    }

    fn publish(mut self, text: &str) -> Result<Mark> {
        let mut publish = || -> io::Result<_> {
            self.file.write_all(text.as_bytes())?;
            let stat = self.file.metadata()?;
            match &self.hidden {
                Some(hidden) => linkat(CWD, hidden, CWD, &self.path, AtFlags::empty())?,
                None => {
                    let number = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                    linkat(CWD, number, CWD, &self.path, AtFlags::SYMLINK_FOLLOW)?;
                }
            }
            Ok((stat.dev(), stat.ino()))
        };
        match publish() {
            Ok(identity) => Ok(Mark { path: self.path.clone(), identity }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Failure::new(ErrorKind::Busy, format!("{} {}", self.found, self.path.display())))
            }
            Err(error) => Err(Failure::io(format!("cannot write {}", self.path.display()), error)),
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            // It has another name by now, or none is wanted.
            let _ = std::fs::remove_file(hidden);
        }
    }
}

impl Mark {
    fn keep(self) {
        std::mem::forget(self);
    }
}

/// Unless somebody has put another one in its place.
impl Drop for Mark {
    fn drop(&mut self) {
        let found = self.path.symlink_metadata().map(|stat| (stat.dev(), stat.ino()));
        if found.is_ok_and(|found| found == self.identity) {
            // There is nobody to tell, and whoever reads it finds no such process.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// 64 hexadecimal digits, as Docker's.
fn random_id() -> Result<String> {
    random::hex::<32>().map_err(|error| Failure::io("cannot make up an ID", error))
}

/// Who has started layermount.
#[derive(Debug)]
struct Parent(Option<Pid>);

impl Parent {
    fn now() -> Self {
        Self(getppid())
    }

    /// The kernel is to kill this process, and the program with it, when the parent ends.
    fn bind(&self) -> Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|errno| Failure::io("cannot follow the parent process", errno))?;
        if getppid() == self.0 {
            return Ok(());
        }
        Err(Failure::new(ErrorKind::Os, "the process that has started layermount has ended"))
    }
}
