//! Profiles in the JSON format that docker's `--security-opt seccomp=FILE` takes: moby, `profiles/seccomp/seccomp.go`.
//!
//! What depends on capabilities, architecture and kernel (`includes`, `excludes`) is decided when the filter is made.

use nix::libc;
use serde::Deserialize;

use super::abi::Abi;
use super::assemble::{Rules, Treatment};
use super::condition::{Condition, Rule, Test};
use super::{Action, SeccompError, number};
use crate::capabilities::Capabilities;

/// As docker and Go name it.
const ARCHITECTURE: &str = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };

/// A profile whose words are understood.
#[derive(Debug)]
pub(super) struct Profile {
    otherwise: Action,
    flags: u32,
    /// The others answer `ENOSYS`.
    abis: Vec<Abi>,
    statements: Vec<Statement>,
}

#[derive(Debug)]
struct Statement {
    /// Those that there are in some ABI.
    names: Vec<String>,
    /// Any of these makes it apply; none at all does too.
    alternatives: Vec<Vec<Condition>>,
    action: Action,
    /// Neither the architecture nor the kernel rules it out.
    applies: bool,
    with: Capabilities,
    without: Capabilities,
}

impl Profile {
    pub(super) fn parse(text: &str) -> Result<Self, SeccompError> {
        let document: Document = serde_json::from_str(text).map_err(SeccompError::Format)?;
        let default_errno = document.default_errno_ret.unwrap_or(libc::EPERM.cast_unsigned());
        let abis = document.abis();
        let statements = document.syscalls.into_iter().map(|statement| statement.understand(default_errno));
        Ok(Self {
            otherwise: action(&document.default_action, default_errno)?,
            abis,
            flags: document.flags.iter().try_fold(0, |all, word| Ok(all | flag(word)?))?,
            statements: statements.collect::<Result<_, SeccompError>>()?,
        })
    }

    pub(super) fn rules(&self, capabilities: Capabilities) -> Rules {
        let calls = self.abis.iter().map(|abi| (*abi, self.calls(*abi, capabilities))).collect();
        Rules { calls, otherwise: self.otherwise, foreign: Action::UNKNOWN, flags: self.flags }
    }

    fn calls(&self, abi: Abi, capabilities: Capabilities) -> Vec<(u32, Treatment)> {
        let mut calls: Vec<(u32, Treatment)> = Vec::new();
        let applies = |statement: &&Statement| {
            statement.applies && capabilities.contains(statement.with) && !capabilities.intersects(statement.without)
        };
        for statement in self.statements.iter().filter(applies) {
            let rules = || {
                let rule =
                    |conditions: &Vec<Condition>| Rule { conditions: conditions.clone(), action: statement.action };
                statement.alternatives.iter().map(rule)
            };
            for number in statement.names.iter().filter_map(|name| number(abi, name)) {
                let known = calls.iter_mut().find(|(known, _)| *known == number).map(|(_, treatment)| treatment);
                match known {
                    _ if statement.alternatives.is_empty() => {
                        let always = Treatment::Always(statement.action);
                        match known {
                            // What is said without conditions counts, as in libseccomp.
                            Some(known) => *known = always,
                            None => calls.push((number, always)),
                        }
                    }
                    Some(Treatment::Always(_)) => {}
                    Some(Treatment::Depends(known)) => known.extend(rules()),
                    None => calls.push((number, Treatment::Depends(rules().collect()))),
                }
            }
        }
        calls
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<DocumentArchitecture>>,
    #[serde(default)]
    syscalls: Vec<DocumentStatement>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DocumentArchitecture {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

impl Document {
    /// The kernel's own always, and 32-bit programs' where the profile speaks of them.
    fn abis(&self) -> Vec<Abi> {
        let maps = self.arch_map.iter().flatten().filter(|map| map.architecture == "SCMP_ARCH_X86_64");
        let mapped = maps.flat_map(|map| map.sub_architectures.iter().flatten());
        let i386 = self.architectures.iter().flatten().chain(mapped).any(|name| name == "SCMP_ARCH_X86");
        Abi::HERE.iter().copied().filter(|abi| *abi != Abi::I386 || i386).collect()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DocumentStatement {
    /// As profiles had it before `names`.
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<DocumentArgument>>,
    #[serde(default, rename = "comment")]
    _comment: serde::de::IgnoredAny,
    #[serde(default)]
    includes: Limits,
    #[serde(default)]
    excludes: Limits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DocumentArgument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Limits {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

impl Limits {
    fn capabilities(&self) -> Result<Capabilities, SeccompError> {
        self.caps.iter().try_fold(Capabilities::empty(), |all, name| {
            let capability = name.parse::<Capabilities>().map_err(|_| unexpected(name, "a capability"))?;
            Ok(all | capability)
        })
    }

    fn names_this_architecture(&self) -> bool {
        self.arches.iter().any(|name| name == ARCHITECTURE)
    }

    /// `None` when it says nothing of kernels.
    fn kernel_is_new_enough(&self) -> Result<Option<bool>, SeccompError> {
        let version = |text: &str| -> Option<(u32, u32)> {
            let mut numbers = text.split(|c: char| !c.is_ascii_digit());
            Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
        };
        let Some(wanted) = &self.min_kernel else { return Ok(None) };
        let wanted = version(wanted).ok_or_else(|| unexpected(wanted, "a kernel's version, such as 4.8,"))?;
        let release = rustix::system::uname();
        Ok(Some(version(&release.release().to_string_lossy()).is_none_or(|running| running >= wanted)))
    }
}

impl DocumentStatement {
    fn understand(self, default_errno: u32) -> Result<Statement, SeccompError> {
        let included = self.includes.arches.is_empty() || self.includes.names_this_architecture();
        let excluded = self.excludes.names_this_architecture() || self.excludes.kernel_is_new_enough()? == Some(true);
        let conditions = self.args.unwrap_or_default().into_iter().map(DocumentArgument::understand);
        let conditions: Vec<_> = conditions.collect::<Result<_, _>>()?;
        let mut seen: Vec<u32> = conditions.iter().map(|condition| condition.argument).collect();
        seen.sort_unstable();
        // What asks several things of one argument means any of them: opencontainers' runc, `libcontainer/seccomp`.
        let alternatives = match seen.windows(2).any(|pair| pair.first() == pair.last()) {
            true => conditions.into_iter().map(|condition| vec![condition]).collect(),
            false if conditions.is_empty() => Vec::new(),
            false => vec![conditions],
        };
        Ok(Statement {
            names: self.names.into_iter().chain(self.name).collect(),
            alternatives,
            action: action(&self.action, self.errno_ret.unwrap_or(default_errno))?,
            applies: included && !excluded && self.includes.kernel_is_new_enough()? != Some(false),
            with: self.includes.capabilities()?,
            without: self.excludes.capabilities()?,
        })
    }
}

impl DocumentArgument {
    fn understand(self) -> Result<Condition, SeccompError> {
        let Self { index, value, value_two, op } = self;
        if index > 5 {
            return Err(SeccompError::Argument { index });
        }
        let test = match op.as_str() {
            "SCMP_CMP_EQ" => Test::Equal(value),
            "SCMP_CMP_NE" => Test::NotEqual(value),
            "SCMP_CMP_LT" => Test::Less(value),
            "SCMP_CMP_LE" => Test::LessOrEqual(value),
            "SCMP_CMP_GT" => Test::Greater(value),
            "SCMP_CMP_GE" => Test::GreaterOrEqual(value),
            "SCMP_CMP_MASKED_EQ" => Test::Masked { mask: value, value: value_two },
            _ => return Err(unexpected(&op, "a comparison, such as SCMP_CMP_EQ,")),
        };
        Ok(Condition { argument: index, test })
    }
}

fn action(word: &str, errno: u32) -> Result<Action, SeccompError> {
    let with_data = |action: u32| match errno {
        0..=4095 => Ok(Action(action | errno)),
        _ => Err(SeccompError::Errno { errno }),
    };
    match word {
        "SCMP_ACT_ALLOW" => Ok(Action::ALLOW),
        "SCMP_ACT_LOG" => Ok(Action(libc::SECCOMP_RET_LOG)),
        "SCMP_ACT_ERRNO" => with_data(libc::SECCOMP_RET_ERRNO),
        "SCMP_ACT_TRACE" => with_data(libc::SECCOMP_RET_TRACE),
        "SCMP_ACT_TRAP" => Ok(Action(libc::SECCOMP_RET_TRAP)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Ok(Action(libc::SECCOMP_RET_KILL_THREAD)),
        "SCMP_ACT_KILL_PROCESS" => Ok(Action::KILL_PROCESS),
        "SCMP_ACT_NOTIFY" => Err(SeccompError::Notify),
        _ => Err(unexpected(word, "an action, such as SCMP_ACT_ALLOW,")),
    }
}

fn flag(word: &str) -> Result<u32, SeccompError> {
    Ok(match word {
        // There is one thread.
        "SECCOMP_FILTER_FLAG_TSYNC" => 0,
        "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG as u32,
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32,
        _ => return Err(unexpected(word, "a flag, such as SECCOMP_FILTER_FLAG_LOG,")),
    })
}

fn unexpected(text: &str, expected: &'static str) -> SeccompError {
    SeccompError::Word { text: text.chars().take(60).collect(), expected }
}

#[cfg(test)]
mod tests {
    use super::super::assemble::tests::answer_to;
    use super::*;

    fn answer(profile: &str, capabilities: Capabilities, name: &str, arguments: [u64; 6]) -> Action {
        let filter = Profile::parse(profile).unwrap().rules(capabilities).assemble().unwrap();
        let own = Abi::HERE[0];
        answer_to(&filter, own.audit_number(), number(own, name).unwrap(), arguments)
    }

    #[test]
    fn statements_depend_on_capabilities_architectures_kernels_and_arguments() {
        let profile = r#"{
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
            "syscalls": [
                {"names": ["read", "no_such_call", "write"], "action": "SCMP_ACT_ALLOW", "comment": "", "args": null},
                {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"name": "ptrace", "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                {"name": "bpf", "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
                {"name": "close", "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390"]}},
                {"name": "dup", "action": "SCMP_ACT_KILL", "includes": {"arches": ["amd64", "arm64"]}},
                {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 5, "op": "SCMP_CMP_EQ"}]},
                {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 5, "op": "SCMP_CMP_GE"}]},
                {"names": ["clone"], "action": "SCMP_ACT_LOG",
                 "args": [{"index": 1, "value": 240, "valueTwo": 16, "op": "SCMP_CMP_MASKED_EQ"}]}
            ]}"#;
        let errno = Action::errno;
        let plain = |name, arguments| answer(profile, Capabilities::CONTAINER, name, arguments);
        let none = [0; 6];
        for (name, expected) in [
            ("read", Action::ALLOW),
            ("mount", errno(13)),
            ("ptrace", Action::ALLOW),
            ("bpf", errno(38)),
            ("close", errno(38)),
            ("dup", Action(libc::SECCOMP_RET_KILL_THREAD)),
            ("execve", errno(38)),
        ] {
            assert_eq!(plain(name, none), expected, "{name}");
        }
        assert_eq!(answer(profile, Capabilities::ALL, "mount", none), Action::ALLOW);
        let first = |first| [first, 5, 0, 0, 0, 0];
        assert_eq!(plain("personality", first(1)), Action::ALLOW);
        assert_eq!(plain("personality", first(5)), Action::ALLOW);
        assert_eq!(plain("personality", first(2)), errno(38));
        assert_eq!(plain("socket", first(1)), Action::ALLOW);
        assert_eq!(plain("socket", first(2)), errno(38));
        assert_eq!(plain("clone", [0, 0x1f, 0, 0, 0, 0]), Action(libc::SECCOMP_RET_LOG));
        assert_eq!(plain("clone", [0, 0x2f, 0, 0, 0, 0]), errno(38));
    }

    #[test]
    fn what_is_not_of_the_format_is_refused() {
        let refused = |text: &str| Profile::parse(text).unwrap_err();
        assert!(matches!(refused("{}"), SeccompError::Format(_)));
        assert!(matches!(
            refused(r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#),
            SeccompError::Format(_)
        ));
        assert!(matches!(refused(r#"{"defaultAction":"ALLOW"}"#), SeccompError::Word { .. }));
        assert!(matches!(refused(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#), SeccompError::Notify));
        assert!(matches!(
            refused(r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#),
            SeccompError::Errno { .. }
        ));
        let statement = |member: &str| {
            refused(&format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["read"],"action":"SCMP_ACT_ERRNO",{member}}}]}}"#
            ))
        };
        assert!(matches!(statement(r#""arguments":[]"#), SeccompError::Format(_)));
        assert!(matches!(
            statement(r#""args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]"#),
            SeccompError::Argument { .. }
        ));
        assert!(matches!(statement(r#""args":[{"index":0,"value":0,"op":"=="}]"#), SeccompError::Word { .. }));
        assert!(matches!(statement(r#""includes":{"caps":["CAP_X"]}"#), SeccompError::Word { .. }));
        assert!(matches!(statement(r#""includes":{"minKernel":"new"}"#), SeccompError::Word { .. }));
    }
}
