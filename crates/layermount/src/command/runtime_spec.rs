//! A [`Command`] in the form of the OCI runtime specification.
//!
//! What a runtime cannot be told is refused, and never dropped in silence. One thing is harmless and left out: what happens when the
//! parent ends ([`Command::die_with_parent`]) is up to whoever runs the runtime.

mod limits;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use rustix::fs::{Gid, OFlags};
use rustix::io::Errno;

use super::error::CommandError;
use super::launch::{Identity, MAX_DATABASE, MAX_GROUPS, Stage, identify};
use super::stdio::Stream;
use super::user::UserSpec;
use super::{Command, Entering, Namespaces, Signal};
use crate::bundle::config::{CapabilitySets, ConsoleSize, Linux, Namespace, Process, Root, User};
use crate::bundle::{BundleError, VERSION, config::Config, text};
use crate::capabilities::Capabilities;
use crate::cgroup;
use crate::enter::runtime_spec::Furnished;
use crate::enter::steps::Surroundings;
use crate::error::Result;
use crate::network::Specified as Network;
use crate::overlay::RootMount;
use crate::script::{Script, open_in_root};

/// What a command and its image come to.
#[derive(Debug)]
pub(crate) struct Specified {
    pub(crate) config: Config,
    pub(crate) furnished: Furnished,
    pub(crate) stop_signal: Signal,
}

/// As the image specification's `conversion.md` has `Config.StopSignal`.
const STOP_SIGNAL: &str = "org.opencontainers.image.stopSignal";

impl Command {
    /// Looks users and the program up in the tree at `root`.
    pub(crate) fn runtime_spec(&self, image: &RootMount, root: BorrowedFd<'_>) -> Result<Specified> {
        // No `..`: what is new in a command has to be said to the runtime, too, or refused.
        let Self {
            entrypoint,
            arguments,
            default_arguments: _,
            environment: _,
            directory,
            user: _,
            streams,
            preserved,
            listening,
            numbered,
            die_with_parent: _,
            rlimits: _,
            terminal,
            init,
            stop_signal,
            added_groups: _,
            more_groups: _,
            capabilities,
            no_new_privileges,
            new_session_keyring,
            #[cfg(feature = "seccomp")]
            seccomp,
            platform: _,
            timed: _,
            entering,
        } = self;
        let Entering {
            hostname: _,
            namespaces,
            furnish,
            mounts,
            volumes: _,
            image_volumes: _,
            user_namespace,
            resources,
            network,
        } = entering;
        let network = match network {
            Some(network) => network.runtime_spec()?,
            None => Some(Network::Host),
        };
        let refused = [
            (
                !preserved.is_empty() || !listening.is_empty() || !numbered.is_empty(),
                "a descriptor that is handed on: it is the runtime's to preserve (--preserve-fds)",
            ),
            (
                *new_session_keyring == Some(false),
                "a shared session keyring: it is the runtime's to keep (--no-new-keyring)",
            ),
            (user_namespace.is_some(), "a user namespace inside of the mounts: a runtime's is around them"),
            (
                streams.iter().any(|stream| !matches!(stream.0, Stream::Inherit)),
                "standard streams: the program has the runtime's",
            ),
            (*init, "an init: a runtime starts the program alone"),
            (network.is_none(), "a network of pasta's: a runtime does not start pasta"),
        ];
        if let Some((_, what)) = refused.into_iter().find(|(given, _)| *given) {
            return Err(BundleError::NotSpecified { what }.into());
        }
        let network = network.unwrap_or(Network::Host);

        let words: Vec<_> = entrypoint.iter().chain(arguments).collect();
        let program = words.first().filter(|program| !program.is_empty()).ok_or(CommandError::NoProgram)?;
        let args = words.iter().map(|word| text("argument", word)).collect::<Result<_, _>>()?;
        let (identity, groups, home) = self.identified(root)?;
        let namespaces = namespaces.unwrap_or_default();
        let hostname = self.hostname_for(namespaces)?;
        let around = Surroundings {
            may_make_devices: image.caller.may_make_devices,
            user_namespace: image.caller.ends_in_user_namespace(),
            private_pids: namespaces.contains(Namespaces::PID),
            private_ipc: namespaces.contains(Namespaces::IPC),
            read_only: image.is_read_only(),
            network: network.view(),
            hostname: &hostname,
            // A runtime makes them, and shows them where it is told to.
            cgroups: None,
        };
        let mut furnish = furnish.clone().unwrap_or_default();
        furnish.mounts.extend_from_slice(mounts);
        self.make_directories(image, &mut furnish);
        if terminal.is_some() && furnish.dev.is_none() {
            return Err(CommandError::NoTerminals.into());
        }
        let is_limited = !resources.is_empty();
        let furnished = Furnished::new(&furnish, &around, is_limited, root)?;
        let spawned = capabilities.unwrap_or(Capabilities::CONTAINER);
        let config = Config {
            oci_version: VERSION,
            process: Process {
                terminal: terminal.is_some(),
                console_size: terminal.map(|size| ConsoleSize { height: size.rows, width: size.columns }),
                user: User {
                    uid: identity.uid.as_raw(),
                    gid: identity.gid.as_raw(),
                    umask: 0o022,
                    // In a namespace of one user there is no setgroups(2).
                    additional_gids: match image.caller.ends_as_sole_user() {
                        true => Vec::new(),
                        false => groups.iter().map(|group| group.as_raw()).collect(),
                    },
                },
                args,
                env: self.variables(home)?,
                // As everywhere in an image, it begins at the root.
                cwd: text("working directory", Path::new("/").join(directory).as_os_str())?,
                capabilities: sets(spawned, identity.uid.is_root()),
                rlimits: self.specified_rlimits(),
                no_new_privileges: *no_new_privileges,
            },
            root: Root { path: crate::bundle::ROOTFS, readonly: image.is_read_only() },
            hostname: namespaces.contains(Namespaces::UTS).then(|| hostname.clone()),
            mounts: furnished.mounts.clone(),
            linux: Linux {
                namespaces: self.specified_namespaces(namespaces, &network)?,
                resources: limits::specified(resources, furnished.device_rules.clone())?,
                cgroups_path: self.specified_cgroup()?,
                devices: furnished.devices.clone(),
                #[cfg(feature = "seccomp")]
                seccomp: seccomp
                    .clone()
                    .unwrap_or_default()
                    .runtime_spec(spawned, self.platform.as_ref())
                    .map_err(CommandError::Seccomp)?,
                #[cfg(not(feature = "seccomp"))]
                seccomp: None,
                rootfs_propagation: "rprivate",
                masked_paths: furnished.masked_paths.clone(),
                readonly_paths: furnished.readonly_paths.clone(),
            },
            annotations: stop_signal.annotation().map(|signal| (STOP_SIGNAL, signal.to_string())).into_iter().collect(),
        };
        // What is mounted may bring the program along.
        if furnish.mounts.is_empty() {
            self.check_program(root, program)?;
        }
        Ok(Specified { config, furnished, stop_signal: stop_signal.signal()? })
    }

    fn specified_namespaces(&self, namespaces: Namespaces, network: &Network) -> Result<Vec<Namespace>> {
        let is_limited = !self.entering.resources.is_empty();
        // As in a run: the program sees its own cgroup as the root.
        let sees_root = is_limited && !namespaces.contains(Namespaces::CGROUP) && cgroup::is_unified()?;
        let kinds = [
            (true, "mount"),
            (namespaces.contains(Namespaces::PID), "pid"),
            (namespaces.contains(Namespaces::IPC), "ipc"),
            (namespaces.contains(Namespaces::UTS), "uts"),
            (namespaces.contains(Namespaces::CGROUP) || sees_root, "cgroup"),
        ];
        let kinds = kinds.into_iter().filter(|(asked, _)| *asked);
        let mut specified: Vec<_> = kinds.map(|(_, kind)| Namespace { kind, path: None }).collect();
        let path = match network {
            Network::Host => return Ok(specified),
            Network::New => None,
            Network::At(path) => Some(text("path", path.as_os_str())?),
        };
        specified.push(Namespace { kind: "network", path });
        Ok(specified)
    }

    /// Who the program runs as, in which groups, and where its home is.
    fn identified(&self, root: BorrowedFd<'_>) -> Result<(Identity, Vec<Gid>, Vec<u8>), CommandError> {
        let spec = UserSpec::parse(&self.user).ok_or_else(|| CommandError::User { text: self.user.clone() })?;
        let added = self.parsed_groups()?;
        let mut groups = Vec::with_capacity(MAX_GROUPS);
        let mut home = Vec::new();
        let mut take_home = |found: &[u8]| {
            home = found.to_vec();
            !found.contains(&0) && found.len() < 4096
        };
        let identity = identify(Ok(root), &spec, &added, &mut vec![0; MAX_DATABASE], &mut groups, &mut take_home)
            .map_err(|stopped| self.explain(&stopped.failure(&spec, &added)))?;
        groups.extend(self.more_groups.iter().copied().map(Gid::from_raw).filter(|group| *group != identity.gid));
        Ok((identity, groups, home))
    }

    /// With those that are missing.
    fn variables(&self, home: Vec<u8>) -> Result<Vec<String>> {
        let given = self.environment()?;
        let mut variables: Vec<Cow<'_, [u8]>> = given.iter().map(|text| Cow::Borrowed(text.as_bytes())).collect();
        if self.variable("HOME").is_none() {
            variables.push(Cow::Owned([b"HOME=", &home[..]].concat()));
        }
        let texts = variables.iter().map(|text_| text("environment variable", OsStr::from_bytes(text_)));
        Ok(texts.collect::<Result<_, _>>()?)
    }

    /// Runtimes say in many ways that a program is missing. Links to what will be mounted lead nowhere yet and are taken for good.
    fn check_program(&self, root: BorrowedFd<'_>, program: &OsStr) -> Result<(), CommandError> {
        let path = self.variable("PATH").unwrap_or(OsStr::new(super::prepare::DEFAULT_PATH));
        let relative = program.as_bytes().contains(&b'/') && !program.as_bytes().starts_with(b"/");
        let candidates = super::prepare::candidates(program, path)?;
        let missing = |path: &std::ffi::CString| {
            matches!(open_in_root(root, path, OFlags::PATH | OFlags::NOFOLLOW), Err(Errno::NOENT | Errno::NOTDIR))
        };
        let provided = |path: &std::ffi::CString| {
            let path = Path::new(OsStr::from_bytes(path.as_bytes()));
            ["/proc", "/sys", "/dev"].iter().any(|mounted| path.starts_with(mounted))
        };
        if relative || candidates.iter().any(|path| provided(path) || !missing(path)) {
            return Ok(());
        }
        Err(self.explain(&Stage::ProgramNotFound.failure(Errno::NOENT)))
    }

    /// Makes the directory that the program starts in, as far as it is the image's.
    pub(crate) fn push_directory<'a>(
        &self,
        script: &mut Script<'a>,
        root: crate::script::At<'a>,
        furnished: &Furnished,
    ) -> Result<()> {
        // The root directory is there, and what is mounted is the runtime's to make directories in.
        let is_root = !self.directory.components().any(|part| matches!(part, Component::Normal(_)));
        if is_root || furnished.mounts.iter().any(|mount| self.directory.starts_with(&mount.destination)) {
            return Ok(());
        }
        let path = super::prepare::c_string("working directory", self.directory.as_os_str())?;
        let into = script.slot();
        script.doing("make the working directory");
        script.push(crate::script::Step::OpenTarget { root, path, kind: crate::script::TargetKind::Directory, into });
        script.push(crate::script::Step::Close(into));
        Ok(())
    }
}

/// As a spawned program has them: in effect for root alone, and never more than the caller's.
fn sets(capabilities: Capabilities, is_root: bool) -> CapabilitySets {
    let own = rustix::thread::capabilities(None).map_or(0, |sets| sets.permitted.bits());
    let names: Vec<String> = (0..u64::BITS)
        .map(|number| capabilities.bits() & own & (1 << number))
        .filter(|bit| *bit != 0)
        .filter_map(Capabilities::name_of)
        .collect();
    let effective = if is_root { names.clone() } else { Vec::new() };
    CapabilitySets {
        bounding: names,
        permitted: effective.clone(),
        effective,
        inheritable: Vec::new(),
        ambient: Vec::new(),
    }
}
