//! Rules in the form of the OCI runtime specification: `config-linux.md`, "Seccomp".
//!
//! What depends on capabilities, architecture and kernel has been decided already. Runtimes hand the statements to libseccomp, which
//! differs from rules in two ways:
//!
//! - It has no order: a statement without conditions takes the place of all others of the same call. So "all but these" has to be
//!   written as "these".
//! - It refuses a statement that says what the default says, which is therefore left out.
//!
//! Calls that are newer than the list answer `ENOSYS` with layermount and runc, and the default with crun.

use nix::libc;

use super::assemble::{Condition, Rule, Rules, Test, Treatment};
use super::calls::CALLS;
use super::{Action, Kind, Seccomp, SeccompError, assemble, default, number_here};
use crate::bundle::config::{self, Argument, Syscalls};
use crate::capabilities::Capabilities;

/// Address families that Linux may come to have (`AF_MAX` is 46), for a rule about all but some.
const VALUES: u64 = 64;

/// The kernel reads this part of an argument that it takes for an int.
const LOWER: u64 = 0xffff_ffff;

impl Seccomp {
    /// `None` for all calls.
    pub(crate) fn runtime_spec(&self, capabilities: Capabilities) -> Result<Option<config::Seccomp>, SeccompError> {
        match &self.0 {
            Kind::Unconfined => Ok(None),
            Kind::Default if !Self::is_supported() => Ok(None),
            Kind::Default => default::rules(capabilities).runtime_spec().map(Some),
            Kind::Profile(_) if !Self::is_supported() => Err(SeccompError::Architecture),
            Kind::Profile(profile) => profile.rules(capabilities).runtime_spec().map(Some),
        }
    }
}

impl Rules {
    fn runtime_spec(mut self) -> Result<config::Seccomp, SeccompError> {
        self.calls.sort_by_key(|(number, _)| *number);
        let mut syscalls: Vec<Syscalls> = Vec::new();
        for (number, treatment) in &self.calls {
            let Some(name) = name(*number) else { continue };
            for Rule { conditions, action } in unordered(treatment, self.otherwise)? {
                if action == self.otherwise {
                    continue;
                }
                let (action, errno_ret) = words(action);
                let args: Vec<_> = conditions.iter().map(argument).collect();
                // Calls that are treated alike are one statement.
                let alike = |known: &&mut Syscalls| {
                    known.args.is_empty() && args.is_empty() && known.action == action && known.errno_ret == errno_ret
                };
                match syscalls.iter_mut().find(alike) {
                    Some(known) => known.names.push(name),
                    None => syscalls.push(Syscalls { names: vec![name], action, errno_ret, args }),
                }
            }
        }
        let (default_action, default_errno_ret) = words(self.otherwise);
        let flags = [
            (libc::SECCOMP_FILTER_FLAG_LOG as u32, "SECCOMP_FILTER_FLAG_LOG"),
            (libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32, "SECCOMP_FILTER_FLAG_SPEC_ALLOW"),
        ];
        let flags = flags.into_iter().filter(|(flag, _)| self.flags & flag != 0).map(|(_, name)| name);
        Ok(config::Seccomp {
            default_action,
            default_errno_ret,
            architectures: vec![assemble::ARCHITECTURE_NAME],
            flags: flags.collect(),
            syscalls,
        })
    }
}

/// The same treatment as rules whose order does not matter.
fn unordered(treatment: &Treatment, otherwise: Action) -> Result<Vec<Rule>, SeccompError> {
    let rules = match treatment {
        Treatment::Always(action) => return Ok(vec![Rule { conditions: Vec::new(), action: *action }]),
        Treatment::Depends(rules) => rules,
    };
    let Some((last, before)) = rules
        .split_last()
        .filter(|(last, before)| last.conditions.is_empty() && before.iter().any(|rule| rule.action != last.action))
    else {
        return Ok(rules.clone());
    };
    // All but some values of one argument, which are treated as calls without a rule are.
    let mut argument = None;
    let mut exceptions = Vec::new();
    for rule in before {
        match rule.conditions.as_slice() {
            [Condition { argument: index, test: Test::Masked { mask: LOWER, value } }]
                if rule.action == otherwise && argument.is_none_or(|known| known == *index) =>
            {
                argument = Some(*index);
                exceptions.push(*value);
            }
            _ => return Err(SeccompError::Ordered),
        }
    }
    let argument = argument.ok_or(SeccompError::Ordered)?;
    let others = (0..VALUES).filter(|value| !exceptions.contains(value));
    let test = |value| Condition { argument, test: Test::Masked { mask: LOWER, value } };
    Ok(others.map(|value| Rule { conditions: vec![test(value)], action: last.action }).collect())
}

fn name(number: u32) -> Option<&'static str> {
    CALLS.iter().find(|(_, x86_64, newer, _)| number_here(*x86_64, *newer) == Some(number)).map(|(name, ..)| *name)
}

fn argument(condition: &Condition) -> Argument {
    let (op, value, value_two) = match condition.test {
        Test::Equal(value) => ("SCMP_CMP_EQ", value, None),
        Test::NotEqual(value) => ("SCMP_CMP_NE", value, None),
        Test::Less(value) => ("SCMP_CMP_LT", value, None),
        Test::LessOrEqual(value) => ("SCMP_CMP_LE", value, None),
        Test::Greater(value) => ("SCMP_CMP_GT", value, None),
        Test::GreaterOrEqual(value) => ("SCMP_CMP_GE", value, None),
        Test::Masked { mask, value } => ("SCMP_CMP_MASKED_EQ", mask, Some(value)),
    };
    Argument { index: condition.argument, value, value_two, op }
}

/// The name of an action, and the number that goes with it.
fn words(action: Action) -> (&'static str, Option<u32>) {
    let data = Some(action.0 & libc::SECCOMP_RET_DATA);
    match action.0 & libc::SECCOMP_RET_ACTION_FULL {
        libc::SECCOMP_RET_ALLOW => ("SCMP_ACT_ALLOW", None),
        libc::SECCOMP_RET_LOG => ("SCMP_ACT_LOG", None),
        libc::SECCOMP_RET_TRACE => ("SCMP_ACT_TRACE", data),
        libc::SECCOMP_RET_TRAP => ("SCMP_ACT_TRAP", None),
        libc::SECCOMP_RET_ERRNO => ("SCMP_ACT_ERRNO", data),
        libc::SECCOMP_RET_KILL_THREAD => ("SCMP_ACT_KILL_THREAD", None),
        _ => ("SCMP_ACT_KILL_PROCESS", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(seccomp: &Seccomp, capabilities: Capabilities) -> config::Seccomp {
        seccomp.runtime_spec(capabilities).unwrap().unwrap()
    }

    fn about<'a>(seccomp: &'a config::Seccomp, name: &str) -> Vec<&'a Syscalls> {
        seccomp.syscalls.iter().filter(|syscalls| syscalls.names.contains(&name)).collect()
    }

    #[test]
    fn the_default_as_statements() {
        let seccomp = of(&Seccomp::default(), Capabilities::CONTAINER);
        assert_eq!((seccomp.default_action, seccomp.default_errno_ret), ("SCMP_ACT_ERRNO", Some(1)));
        let [read] = about(&seccomp, "read")[..] else { panic!() };
        assert!(read.action == "SCMP_ACT_ALLOW" && read.args.is_empty());
        assert!(about(&seccomp, "mount").is_empty() && about(&seccomp, "keyctl").is_empty(), "as the default says");
        let [clone3] = about(&seccomp, "clone3")[..] else { panic!() };
        assert_eq!((clone3.action, clone3.errno_ret), ("SCMP_ACT_ERRNO", Some(38)));
        let families: Vec<_> = about(&seccomp, "socket").iter().map(|rule| rule.args[0].value_two.unwrap()).collect();
        assert_eq!(families.len(), 62);
        assert!(families.contains(&1) && !families.contains(&38) && !families.contains(&40), "{families:?}");
        let admin = of(&Seccomp::default(), Capabilities::ALL);
        assert!(about(&admin, "mount")[0].args.is_empty());
    }

    #[test]
    fn a_profile_is_resolved() {
        let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"], "syscalls": [
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
            {"names": ["chown"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_CHOWN"]}},
            {"names": ["personality"], "action": "SCMP_ACT_KILL_PROCESS",
             "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_GE"}]}]}"#;
        let seccomp = of(&Seccomp::from_json(profile).unwrap(), Capabilities::CONTAINER);
        assert_eq!((seccomp.default_action, &seccomp.flags[..]), ("SCMP_ACT_ALLOW", &["SECCOMP_FILTER_FLAG_LOG"][..]));
        let [mkdir, personality] = &seccomp.syscalls[..] else { panic!("{seccomp:?}") };
        assert_eq!((mkdir.action, mkdir.errno_ret), ("SCMP_ACT_ERRNO", Some(28)));
        assert_eq!(personality.args, [Argument { index: 0, value: 8, value_two: None, op: "SCMP_CMP_GE" }]);
        assert!(Seccomp::unconfined().runtime_spec(Capabilities::ALL).unwrap().is_none());
    }
}
