//! `config.json` as data, as far as bundles are made of it: opencontainers/runtime-spec, `config.md` and `config-linux.md`.
//!
//! Types of our own, and not those of the oci-spec crate: there capabilities are a hash set, so that the same bundle would be
//! written differently every time. The tests read what is written by that crate.

use std::path::PathBuf;

use serde::Serialize;

/// `umask` came with 1.0.2-dev, `defaultErrnoRet` with 1.1; runtimes of 1.0 take what they do not know for absent.
pub(crate) const VERSION: &str = "1.0.2";

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    pub(crate) oci_version: &'static str,
    pub(crate) process: Process,
    pub(crate) root: Root,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hostname: Option<String>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) linux: Linux,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process {
    pub(crate) terminal: bool,
    pub(crate) user: User,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) capabilities: CapabilitySets,
    pub(crate) no_new_privileges: bool,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) umask: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) additional_gids: Vec<u32>,
}

/// By name, in the kernel's order.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CapabilitySets {
    pub(crate) bounding: Vec<String>,
    pub(crate) effective: Vec<String>,
    pub(crate) permitted: Vec<String>,
    pub(crate) inheritable: Vec<String>,
    pub(crate) ambient: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Root {
    pub(crate) path: &'static str,
    pub(crate) readonly: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Mount {
    pub(crate) destination: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) source: String,
    pub(crate) options: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Linux {
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) resources: Resources,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) devices: Vec<Device>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seccomp: Option<Seccomp>,
    pub(crate) rootfs_propagation: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) masked_paths: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) readonly_paths: Vec<PathBuf>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Namespace {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Resources {
    pub(crate) devices: Vec<DeviceRule>,
}

/// Of the devices cgroup. Runtimes add those devices that every program may use.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DeviceRule {
    pub(crate) allow: bool,
    pub(crate) access: &'static str,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Device {
    pub(crate) path: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) file_mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Seccomp {
    pub(crate) default_action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) default_errno_ret: Option<u32>,
    pub(crate) architectures: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) flags: Vec<&'static str>,
    pub(crate) syscalls: Vec<Syscalls>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Syscalls {
    pub(crate) names: Vec<&'static str>,
    pub(crate) action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) errno_ret: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) args: Vec<Argument>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Argument {
    pub(crate) index: u32,
    pub(crate) value: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value_two: Option<u64>,
    pub(crate) op: &'static str,
}
