//! What was tried and what came of it, as data.

use std::fmt;

use crate::error::Error;

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    subject: Subject,
    outcome: Outcome,
}

/// What came of trying.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It works; and what was found.
    Works(String),
    /// It does not.
    Fails(Shortcoming),
    /// This user does without; and why.
    NotNeeded(String),
    /// It takes something that does not work.
    NotTried(Subject),
}

/// Something that does not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortcoming {
    weight: Weight,
    found: String,
    consequence: String,
    remedy: Option<String>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Weight {
    /// Programs run, with less than there could be.
    Impairs,
    /// No program can be run.
    Prevents,
}

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Subject {
    /// The kernel's release and architecture.
    Release,
    /// `openat2(2)`, Linux 5.6.
    Openat2,
    /// `close_range(2)`, Linux 5.11.
    CloseRange,
    /// Who the caller is.
    Caller,
    /// Making a cgroup with limits of memory, processors and processes.
    Limits,
    /// Making a user namespace, mapping oneself in it and mounting something.
    UserNamespaces,
    /// What subuid(5) and subgid(5) grant.
    IdRanges,
    /// Having that mapped, by newuidmap(1) and newgidmap(1) where the caller may not do it.
    IdMaps,
    /// Mounting an overlay, and in which way.
    Overlay,
    /// Removing a lower layer's directory and making it again, on a temporary upper.
    OpaqueDirectories,
    /// Extended attributes of users on tmpfs, Linux 6.6.
    TmpfsXattrs,
    /// `mount_setattr(2)`, Linux 5.12.
    ReadOnlyMounts,
    /// Where the store is, and whose.
    Store,
    /// On which file system, and how much room there is.
    StoreSpace,
    /// Whether the store can hold layers as directories.
    Layers,
    /// Whether the kernel mounts EROFS files out of the store.
    ErofsFiles,
    /// A Docker Engine.
    Docker,
}

/// What several probes are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Topic {
    /// System calls.
    Kernel,
    /// The caller and its namespaces.
    User,
    /// Putting layers together.
    Mounts,
    /// Keeping layers.
    Store,
    /// Where else images are.
    Engines,
}

impl Probe {
    pub(super) fn new(subject: Subject, outcome: Outcome) -> Self {
        Self { subject, outcome }
    }

    /// What was tried.
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// What came of it.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Whether it works.
    pub fn works(&self) -> bool {
        matches!(self.outcome, Outcome::Works(_))
    }

    /// Whether it is a reason for which no program can be run.
    pub fn prevents(&self) -> bool {
        matches!(&self.outcome, Outcome::Fails(shortcoming) if shortcoming.weight == Weight::Prevents)
    }
}

impl Outcome {
    /// A name that stays the same, for programs: `works`, `fails`, `not_needed`, `not_tried`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Works(_) => "works",
            Self::Fails(_) => "fails",
            Self::NotNeeded(_) => "not_needed",
            Self::NotTried(_) => "not_tried",
        }
    }

    /// What was found, or why nothing was looked for.
    pub fn found(&self) -> String {
        match self {
            Self::Works(found) | Self::NotNeeded(found) => found.clone(),
            Self::Fails(shortcoming) => shortcoming.found.clone(),
            Self::NotTried(subject) => format!("needs {subject}"),
        }
    }
}

impl Shortcoming {
    pub(super) fn new(weight: Weight, found: impl Into<String>, consequence: impl Into<String>) -> Self {
        Self { weight, found: found.into(), consequence: consequence.into(), remedy: None }
    }

    /// With the words of an error, and its hint.
    pub(super) fn of(weight: Weight, error: &Error, consequence: impl Into<String>) -> Self {
        Self { remedy: error.hint(), ..Self::new(weight, format!("{error:#}"), consequence) }
    }

    pub(super) fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// Unless there is one already.
    pub(super) fn or_remedy(self, remedy: &str) -> Self {
        Self { remedy: self.remedy.or_else(|| Some(remedy.to_owned())), ..self }
    }

    /// How bad it is.
    pub fn weight(&self) -> Weight {
        self.weight
    }

    /// What was found: the failed call, and its reason as far as that is known.
    pub fn found(&self) -> &str {
        &self.found
    }

    /// What it means for whoever runs programs in images.
    pub fn consequence(&self) -> &str {
        &self.consequence
    }

    /// What to change, in lines, where something can be.
    pub fn remedy(&self) -> Option<&str> {
        self.remedy.as_deref()
    }
}

impl Weight {
    /// A name that stays the same, for programs: `impairs`, `prevents`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Impairs => "impairs",
            Self::Prevents => "prevents",
        }
    }
}

impl Subject {
    /// A name that stays the same, for programs: `user_namespaces`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Openat2 => "openat2",
            Self::CloseRange => "close_range",
            Self::Caller => "caller",
            Self::Limits => "limits",
            Self::UserNamespaces => "user_namespaces",
            Self::IdRanges => "id_ranges",
            Self::IdMaps => "id_maps",
            Self::Overlay => "overlay",
            Self::OpaqueDirectories => "opaque_directories",
            Self::TmpfsXattrs => "tmpfs_xattrs",
            Self::ReadOnlyMounts => "read_only_mounts",
            Self::Store => "store",
            Self::StoreSpace => "store_space",
            Self::Layers => "layers",
            Self::ErofsFiles => "erofs_files",
            Self::Docker => "docker",
        }
    }

    /// What it belongs to.
    pub fn topic(self) -> Topic {
        match self {
            Self::Release | Self::Openat2 | Self::CloseRange => Topic::Kernel,
            Self::Caller | Self::Limits | Self::UserNamespaces | Self::IdRanges | Self::IdMaps => Topic::User,
            Self::Overlay | Self::OpaqueDirectories | Self::TmpfsXattrs | Self::ReadOnlyMounts => Topic::Mounts,
            Self::Store | Self::StoreSpace | Self::Layers | Self::ErofsFiles => Topic::Store,
            Self::Docker => Topic::Engines,
        }
    }
}

/// For people: `user namespaces`.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Release => "release",
            Self::Openat2 => "openat2",
            Self::CloseRange => "close_range",
            Self::Caller => "caller",
            Self::Limits => "limits",
            Self::UserNamespaces => "user namespaces",
            Self::IdRanges => "ID ranges",
            Self::IdMaps => "ID maps",
            Self::Overlay => "overlay",
            Self::OpaqueDirectories => "opaque directories",
            Self::TmpfsXattrs => "xattrs on tmpfs",
            Self::ReadOnlyMounts => "read-only mounts",
            Self::Store => "place",
            Self::StoreSpace => "room",
            Self::Layers => "directories",
            Self::ErofsFiles => "EROFS files",
            Self::Docker => "Docker",
        })
    }
}

impl Topic {
    /// A name that stays the same, for programs and people: `kernel`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::User => "user",
            Self::Mounts => "mounts",
            Self::Store => "store",
            Self::Engines => "engines",
        }
    }
}
