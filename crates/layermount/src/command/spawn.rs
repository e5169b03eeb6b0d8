//! [`RootMount::spawn`]: a child that enters the image and becomes the program.
//!
//! ```text
//! parent                               child, in new namespaces
//!   Script, Launch made ready
//!   clone3 ------------------------->  runs the script: mounts, pivot_root
//!   reads the pipe                     runs the launch: user, directory, descriptors
//!   '!' <----------------------------  right before execve
//!   end of file <--------------------  execve closes the pipe: it runs
//!   or a Failure <-------------------  something failed; put into words by the parent
//! ```

use std::borrow::BorrowMut;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::cgroup::Joining;
use super::channel::{Channel, Outcome, system};
use super::confine::Launching;
use super::error::CommandError;
use super::inner::Inner;
use super::launch::{Launch, Report, Stage};
use super::prepare::Pipes;
use super::process::Child;
use super::timings::{StartPhase, StopWatch};
use super::{Command, Namespaces};
use crate::cgroup::Group;
use crate::enter::steps::Surroundings;
use crate::enter::{Devices, Furnish, ImageVolumes};
use crate::error::{Result, SyscallContext};
use crate::network::Joined;
use crate::overlay::RootMount;
use crate::script::{Failure, Script, Step};
use crate::sys::fork::{self, Memory};
use crate::sys::random;

impl RootMount {
    /// Starts a program inside the image, in namespaces of its own. May be called in a process with threads.
    ///
    /// Takes a command or, as it comes from a chain of calls, a reference to one. Returns when the program runs (after
    /// `execve`), or says why it does not.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ProgramNotFound`](crate::ErrorKind::ProgramNotFound),
    /// [`ErrorKind::ProgramNotExecutable`](crate::ErrorKind::ProgramNotExecutable),
    /// [`ErrorKind::UserNotFound`](crate::ErrorKind::UserNotFound), and whatever the kernel says. No process is left then.
    pub fn spawn(self, mut command: impl BorrowMut<Command>) -> Result<Child> {
        self.spawn_command(command.borrow_mut())
    }

    fn spawn_command(mut self, command: &mut Command) -> Result<Child> {
        let mut watch = command.timed.then(StopWatch::start);
        let mut prepared = {
            let launching = Launching::Spawn { user_namespace: self.caller.ends_in_user_namespace() };
            command.launch(launching, self.caller.ends_as_sole_user())?
        };
        let network = match &command.entering.network {
            Some(network) => network.prepare(&self.caller)?,
            None => Joined::Host,
        };
        let mut child = match self.start(command, &network, &mut prepared, &mut watch) {
            // What was assumed of the kernel is tried for the first time in the child.
            Err(_) if !self.caller.may_mount && self.kernel.fall_back(&self.caller) => {
                self.start(command, &network, &mut prepared, &mut watch)?
            }
            result => result?,
        };
        child.timings = watch.and_then(StopWatch::stop);
        child.holds = Some(self.into_holds());
        if let Some(mut keeper) = network.into_keeper() {
            if let Err(error) = keeper.hand_over(child.pidfd()) {
                child.kill()?;
                child.wait()?;
                return Err(error.into());
            }
            child.network = Some(keeper);
        }
        Ok(child)
    }

    fn start(
        &self,
        command: &Command,
        network: &Joined,
        (launch, pipes): &mut (Launch, Pipes),
        watch: &mut Option<StopWatch>,
    ) -> Result<Child> {
        let namespaces = command.entering.namespaces.unwrap_or_default();
        let stop_signal = command.stop_signal.signal()?;
        if command.init && !namespaces.contains(Namespaces::PID) {
            return Err(CommandError::SharedPids.into());
        }
        let group = Group::make(&command.entering.resources)?;
        let script = self.script(command, namespaces, network, group.as_ref())?;
        let mut files = script.files();
        let mut inner = command.entering.user_namespace.as_ref().map(Inner::new).transpose().map_err(system)?;
        let channel = Channel::new(command, &launch.placed)?;
        let flags = nix::libc::CLONE_NEWNS | namespaces.0 | self.caller.clone_flags() | network.clone_flags();
        // Who waits for its ID maps, or goes on for as long as the program, cannot have the parent wait for it.
        let memory = if inner.is_some() || command.init { Memory::Copied } else { Memory::Shared };
        if let Some(watch) = watch {
            watch.lap(StartPhase::Prepare);
        }
        files.watch = *watch;
        let process = Joining::new(group.as_ref(), flags)?.start(memory, &mut |join| {
            fork::close_copy(channel.parents());
            fork::ignore_stops();
            // Mount points are made for everybody, whatever the parent keeps from others.
            rustix::process::umask(Mode::from_raw_mode(0o022));
            if let Some(watch) = &mut files.watch {
                watch.lap(StartPhase::Clone);
            }
            // Closed by then with all else, or by the end of this child.
            let maps = ManuallyDrop::new(launch.own_maps());
            let report = channel.report(maps.as_ref().map(AsFd::as_fd));
            let failure = match join.run() {
                Ok(()) => match script.run(&mut files) {
                    Ok(()) => launch.run_in(&mut inner, report, files.watch.as_mut()),
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            channel.fail(&failure)
        })?;
        *watch = files.watch;
        files.disown();
        launch.disown();
        // Where there is nothing new to allow or forbid, it is the user namespace that is refused.
        let user_namespace = self.caller.needs_user_namespace();
        let process =
            process.syscall("clone3", || "CLONE_NEW*, ...".to_owned()).map_err(|cause| CommandError::Clone {
                user_namespace: user_namespace && matches!(cause.errno(), Errno::PERM | Errno::NOSPC | Errno::USERS),
                cause,
            })?;
        let mapped = inner.map_or(Ok(()), |inner| inner.map(process.pid));
        let mut child = Child::new(process, group);
        let outcome = match channel.listen() {
            Ok(outcome) => outcome,
            Err(error) => {
                // It may run already, and nobody would have it.
                child.kill()?;
                child.wait()?;
                return Err(error.into());
            }
        };
        if let Err(error) = mapped {
            // It has nobody to be, and ends.
            child.wait()?;
            return Err(error);
        }
        if let Outcome::Runs(arrived) = outcome {
            return child.running(command, arrived, pipes, stop_signal);
        }
        // That somebody else has reaped it does not matter when it has said what was wrong.
        let status = child.wait();
        Err(match outcome {
            Outcome::Failed(failure) if Stage::of(&failure).is_some() => command.explain(&failure).into(),
            Outcome::Failed(failure) => script.explain(&failure).into(),
            Outcome::Died | Outcome::Runs(_) => CommandError::Died { status: status? }.into(),
        })
    }

    /// All that the child does before it is inside.
    fn script<'a>(
        &'a self,
        command: &Command,
        namespaces: Namespaces,
        network: &'a Joined,
        group: Option<&Group>,
    ) -> Result<Script<'a>> {
        let hostname = command.hostname_for(namespaces)?;
        let mut furnish = command.entering.furnish.clone().unwrap_or_default();
        furnish.mounts.extend_from_slice(&command.entering.mounts);
        if command.terminal.is_some() && furnish.dev.is_none() {
            return Err(CommandError::NoTerminals.into());
        }
        let has_all_devices = furnish.dev == Some(Devices::Host);
        let view = group.map(Group::view);
        let around = Surroundings {
            may_make_devices: self.caller.may_make_devices && (has_all_devices || !command.may_make_devices()),
            user_namespace: self.caller.ends_in_user_namespace(),
            private_pids: namespaces.contains(Namespaces::PID),
            private_ipc: namespaces.contains(Namespaces::IPC),
            read_only: self.is_read_only(),
            hostname: &hostname,
            network: network.view(),
            cgroups: view.as_ref(),
        };
        command.make_directories(self, &mut furnish);
        let mut script = Script::new();
        self.caller.push_id_maps(&mut script);
        network.push_into(&mut script);
        self.push_into(&mut script, &furnish, &around)?;
        if namespaces.contains(Namespaces::UTS) {
            let name = std::ffi::CString::new(hostname.as_str());
            let name = name.map_err(|_| CommandError::Hostname { text: hostname.clone() })?;
            script.doing("set the hostname").push(Step::SetHostname(name));
        }
        Ok(script)
    }
}

impl Launch {
    /// For what an init has to let go of. While `/proc` is the host's.
    fn own_maps(&self) -> Option<OwnedFd> {
        self.init.as_ref()?;
        rustix::fs::open(c"/proc/self/maps", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
    }

    /// What there is to do inside the image, before and after the program's own user namespace is entered.
    fn run_in(&mut self, inner: &mut Option<Inner<'_>>, report: Report<'_>, watch: Option<&mut StopWatch>) -> Failure {
        if let (Some(slave), Some(herald)) = (&mut self.terminal, report.herald)
            && let Err(errno) = slave.open(herald, true)
        {
            return Stage::Terminal.failure(errno);
        }
        match inner.as_mut().map_or(Ok(()), Inner::enter) {
            Ok(()) => self.run(Some(report), watch),
            Err(errno) => Stage::UserNamespace.failure(errno),
        }
    }
}

impl Command {
    /// What becomes of the image's volumes, and directories that cannot be made any more when the tree is read-only.
    pub(super) fn make_directories(&self, image: &RootMount, furnish: &mut Furnish) {
        let volumes = &self.entering.volumes;
        match self.entering.image_volumes {
            ImageVolumes::Auto | ImageVolumes::Tmpfs if image.is_temporary() => furnish.make_directories(volumes),
            ImageVolumes::Auto if !image.is_read_only() => furnish.make_directories(volumes),
            ImageVolumes::Auto | ImageVolumes::Tmpfs => furnish.add_volumes(volumes),
            ImageVolumes::Ignore => {}
        }
        if image.is_read_only() && self.directory.parent().is_some() {
            // Later it is too late.
            furnish.make_directories(std::slice::from_ref(&self.directory));
        }
    }

    /// The name of the machine as the program will see it.
    pub(super) fn hostname_for(&self, namespaces: Namespaces) -> Result<String, CommandError> {
        let private = namespaces.contains(Namespaces::UTS);
        match &self.entering.hostname {
            Some(_) if !private => Err(CommandError::SharedHostname),
            Some(name) if is_hostname(name) => Ok(name.clone()),
            Some(name) => Err(CommandError::Hostname { text: name.clone() }),
            None if private => random_hex("make up a hostname"),
            None => Ok(rustix::system::uname().nodename().to_string_lossy().into_owned()),
        }
    }
}

/// hostname(7), and the kernel's limit of 64 bytes. It also goes into `/etc/hosts`, where a line break would be another line.
fn is_hostname(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.len() <= 64 && name.split('.').all(label)
}

pub(super) fn random_hex(doing: &'static str) -> Result<String, CommandError> {
    random::hex::<6>().map_err(|cause| CommandError::System { doing, cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames() {
        for good in ["a", "a-b.example", "0123456789ab", "under_score"] {
            assert!(is_hostname(good), "{good}");
        }
        for bad in ["", "a b", "a\n1.2.3.4 evil", "-a", "a..b", ".", "ä", &"a".repeat(65)] {
            assert!(!is_hostname(bad), "{bad:?}");
        }
        let name = random_hex("make up a hostname").unwrap();
        assert!(name.len() == 12 && is_hostname(&name));
    }

    #[test]
    fn a_shared_hostname_cannot_be_set() {
        let mut command = Command::new("x");
        command.hostname("a");
        assert!(command.hostname_for(Namespaces::empty()).is_err());
        assert_eq!(command.hostname_for(Namespaces::UTS).unwrap(), "a");
    }
}
