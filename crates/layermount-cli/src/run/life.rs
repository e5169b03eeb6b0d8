//! `--pidfile`, `--cidfile`, `--die-with-parent`, and the flags about signals.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use layermount::{Child, Command, ErrorKind};
use rustix::fs::CWD;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::args::Life;
use crate::failure::{Failure, Result};

/// What tells others of a run.
#[derive(Debug)]
pub(super) struct Marks {
    pidfile: Option<PathBuf>,
    cidfile: Option<Mark>,
    id: Option<String>,
    parent: Option<Parent>,
}

impl Marks {
    /// As early as possible. The ID can be read before the program runs.
    pub(super) fn make(args: &Life) -> Result<Self> {
        let parent = args.die_with_parent.then(Parent::now);
        if let Some(file) = &args.pidfile {
            refuse_existing(file, "process ID file found, make sure the other program isn't running or delete")?;
        }
        let mut marks = Self { pidfile: args.pidfile.clone(), cidfile: None, id: None, parent };
        if let Some(file) = &args.cidfile {
            const FOUND: &str = "container ID file found, make sure the other container isn't running or delete";
            refuse_existing(file, FOUND)?;
            let id = random_id()?;
            marks.cidfile = Some(Mark::make(file, &id, FOUND)?);
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
        const FOUND: &str = "process ID file found, make sure the other program isn't running or delete";
        let number = || child.program_id().to_string();
        let pidfile = self.pidfile.map(|file| Mark::make(&file, &format!("{}\n", number()), FOUND)).transpose();
        if pidfile.is_err() {
            child.kill()?;
            child.wait()?;
        } else if let Some(mark) = self.cidfile {
            mark.keep();
        }
        pidfile
    }
}

fn refuse_existing(file: &Path, found: &str) -> Result<()> {
    match file.symlink_metadata() {
        Ok(_) => Err(Failure::new(ErrorKind::Busy, format!("{found} {}", file.display()))),
        Err(_) => Ok(()),
    }
}

/// A file that is removed again.
#[derive(Debug)]
pub(crate) struct Mark {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Mark {
    /// Whole or not at all: it has another name until it is written.
    fn make(path: &Path, text: &str, found: &str) -> Result<Self> {
        let shown = path.display();
        let failed = |error| Failure::io(format!("cannot write {shown}"), error);
        let mut hidden = path.as_os_str().to_owned();
        hidden.push(format!(".{}", std::process::id()));
        let made = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&hidden);
        let mut file = made.map_err(failed)?;
        let publish = |file: &mut File| -> io::Result<_> {
            file.write_all(text.as_bytes())?;
            let stat = file.metadata()?;
            rustix::fs::linkat(CWD, &hidden, CWD, path, rustix::fs::AtFlags::empty())?;
            Ok((stat.dev(), stat.ino()))
        };
        let published = publish(&mut file);
        let removed = std::fs::remove_file(&hidden);
        match published {
            Ok(identity) => {
                let mark = Self { path: path.to_owned(), identity };
                removed.map_err(failed)?;
                Ok(mark)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Failure::new(ErrorKind::Busy, format!("{found} {shown}")))
            }
            Err(error) => Err(failed(error)),
        }
    }

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
    let mut bytes = [0_u8; 32];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Failure::io("cannot read /dev/urandom", error))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
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
