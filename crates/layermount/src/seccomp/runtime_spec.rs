//! Rules in the form of the OCI runtime specification: `config-linux.md`, "Seccomp".
//!
//! What depends on capabilities, architecture and kernel has been decided already. Runtimes hand the statements to libseccomp, which
//! differs from rules in some ways:
//!
//! - It has no order: a statement without conditions takes the place of all others of the same call. So "all but these values" is
//!   written as all the ranges between them, each by the bits that its numbers begin with.
//! - It refuses a statement that says what the default says, which is therefore left out.
//! - A condition is one comparison, so that one of several values is as many statements.
//! - The statements hold for 32-bit programs as well. It takes what is said of `socket` for a statement about `socketcall`, too, without
//!   the family that it cannot see; so `socketcall` is refused as a whole where it may not make sockets.
//!
//! Calls that are newer than the list answer `ENOSYS` with layermount and runc, and the default with crun. Calls of another ABI (x32)
//! end the program in place of answering `ENOSYS`.

use nix::libc;

use super::abi::Abi;
use super::assemble::{Rules, Treatment};
use super::calls::{CALLS, Call, number_of};
use super::condition::{Condition, Rule, Test};
use super::default::OldSockets;
use super::{Action, Kind, Seccomp, SeccompError, default, is_i386};
use crate::bundle::config::{self, Argument, Syscalls};
use crate::capabilities::Capabilities;
use crate::image::Platform;

/// The kernel reads this part of an argument that it takes for an int.
const LOWER: u64 = 0xffff_ffff;

impl Seccomp {
    /// `None` for all calls.
    pub(crate) fn runtime_spec(
        &self,
        capabilities: Capabilities,
        platform: Option<&Platform>,
    ) -> Result<Option<config::Seccomp>, SeccompError> {
        match &self.0 {
            Kind::Unconfined => Ok(None),
            Kind::Default if !Self::is_supported() => Ok(None),
            Kind::Default => {
                let old_sockets = if is_i386(platform) { OldSockets::Allowed } else { OldSockets::RefusedWithAll };
                default::rules(capabilities, old_sockets).runtime_spec().map(Some)
            }
            Kind::Profile(_) if !Self::is_supported() => Err(SeccompError::Architecture),
            Kind::Profile(profile) => profile.rules(capabilities).runtime_spec().map(Some),
        }
    }
}

impl Rules {
    fn runtime_spec(mut self) -> Result<config::Seccomp, SeccompError> {
        self.calls.iter_mut().for_each(|(_, calls)| calls.sort_by_key(|(number, _)| *number));
        let mut syscalls: Vec<Syscalls> = Vec::new();
        for call in CALLS {
            let Some(treatment) = self.treatment(call) else { continue };
            let name = call.0;
            for Rule { conditions, action } in unordered(treatment)? {
                if action == self.otherwise {
                    continue;
                }
                let (action, errno_ret) = words(action);
                let args: Vec<_> = conditions.iter().map(argument).collect::<Result<_, _>>()?;
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
            architectures: self.calls.iter().map(|(abi, _)| abi.name()).collect(),
            flags: flags.collect(),
            syscalls,
        })
    }

    /// Of the first ABI that has the call: rules are made by name, and do not differ between them.
    fn treatment(&self, call: &Call) -> Option<&Treatment> {
        self.calls.iter().find_map(|(abi, calls): &(Abi, _)| {
            let number = number_of(call, *abi)?;
            let index = calls.binary_search_by_key(&number, |(known, _)| *known).ok()?;
            calls.get(index).map(|(_, treatment)| treatment)
        })
    }
}

/// The same treatment as rules whose order does not matter, each with at most one comparison of an argument.
fn unordered(treatment: &Treatment) -> Result<Vec<Rule>, SeccompError> {
    let rules = match treatment {
        Treatment::Always(action) => return Ok(vec![Rule { conditions: Vec::new(), action: *action }]),
        Treatment::Depends(rules) => rules,
    };
    let mut single: Vec<Rule> = rules.iter().flat_map(one_by_one).collect();
    let Some((last, before)) = single
        .split_last()
        .filter(|(last, before)| last.conditions.is_empty() && before.iter().any(|rule| rule.action != last.action))
    else {
        return Ok(single);
    };
    // All but some values of one argument.
    let mut argument = None;
    let mut exceptions = Vec::new();
    for rule in before {
        match rule.conditions.as_slice() {
            [Condition { argument: index, test: Test::Masked { mask: LOWER, value } }]
                if argument.is_none_or(|known| known == *index) && !exceptions.contains(value) =>
            {
                argument = Some(*index);
                exceptions.push(*value);
            }
            _ => return Err(SeccompError::Ordered),
        }
    }
    let argument = argument.ok_or(SeccompError::Ordered)?;
    let action = last.action;
    let between = all_but(&exceptions).into_iter().map(|test| {
        let conditions = vec![Condition { argument, test }];
        Rule { conditions, action }
    });
    single.pop();
    single.extend(between);
    Ok(single)
}

/// One of several values, as a rule for each.
fn one_by_one(rule: &Rule) -> Vec<Rule> {
    let mut alternatives: Vec<Vec<Condition>> = vec![Vec::new()];
    for condition in &rule.conditions {
        let tests: Vec<Test> = match condition.test {
            Test::OneOf { mask, values } => {
                let test = |value: &u32| Test::Masked { mask: mask.into(), value: (*value).into() };
                values.iter().map(test).collect()
            }
            test => vec![test],
        };
        let with = |before: &Vec<Condition>, test: &Test| {
            let mut conditions = before.clone();
            conditions.push(Condition { argument: condition.argument, test: *test });
            conditions
        };
        alternatives =
            alternatives.iter().flat_map(|before| tests.iter().map(move |test| with(before, test))).collect();
    }
    alternatives.into_iter().map(|conditions| Rule { conditions, action: rule.action }).collect()
}

/// Tests that together hold for all numbers of 32 bits but these, and of which no two hold for the same one.
fn all_but(exceptions: &[u64]) -> Vec<Test> {
    let mut tests = Vec::new();
    // Numbers that begin alike: how many bits, and which.
    let mut open = vec![(0_u32, 0_u64)];
    while let Some((bits, value)) = open.pop() {
        let mask = LOWER << (32 - bits) & LOWER;
        if !exceptions.iter().any(|exception| exception & mask == value) {
            tests.push(Test::Masked { mask, value });
        } else if bits < 32 {
            open.extend([0, 1].map(|bit: u64| (bits + 1, value | bit << (31 - bits))));
        }
    }
    tests
}

fn argument(condition: &Condition) -> Result<Argument, SeccompError> {
    let (op, value, value_two) = match condition.test {
        Test::Equal(value) => ("SCMP_CMP_EQ", value, None),
        Test::NotEqual(value) => ("SCMP_CMP_NE", value, None),
        Test::Less(value) => ("SCMP_CMP_LT", value, None),
        Test::LessOrEqual(value) => ("SCMP_CMP_LE", value, None),
        Test::Greater(value) => ("SCMP_CMP_GT", value, None),
        Test::GreaterOrEqual(value) => ("SCMP_CMP_GE", value, None),
        Test::Masked { mask, value } => ("SCMP_CMP_MASKED_EQ", mask, Some(value)),
        // Taken apart before.
        Test::OneOf { .. } => return Err(SeccompError::Ordered),
    };
    Ok(Argument { index: condition.argument, value, value_two, op })
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
        seccomp.runtime_spec(capabilities, None).unwrap().unwrap()
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
        let allowed = |name: &str, value: u64| {
            let holds = |argument: &Argument| value & argument.value == argument.value_two.unwrap();
            let rules = about(&seccomp, name);
            let answers = rules.iter().filter(|rule| rule.args.iter().all(holds)).map(|rule| rule.action);
            answers.inspect(|action| assert_eq!(*action, "SCMP_ACT_ALLOW")).count()
        };
        for (name, value, expected) in [
            ("socket", 1, 1),
            ("socket", 2, 1),
            ("socket", 16, 1),
            ("socket", 38, 0),
            ("socket", 40, 0),
            ("socket", 1 << 32 | 40, 0),
            ("socket", LOWER, 1),
            ("ioctl", 0x5401, 1),
            ("ioctl", 0x5412, 0),
            ("ioctl", 0x541C, 0),
            ("ioctl", 1 << 32 | 0x5412, 0),
            ("ioctl", 0x5413, 1),
            ("ioctl", 0xC0FF_EE00, 1),
            ("personality", 8, 1),
            ("personality", 0x4_0000, 0),
        ] {
            assert_eq!(allowed(name, value), expected, "{name} {value:#x}");
        }
        let sockets = about(&seccomp, "socketcall");
        let told = |rules: &[&Syscalls]| rules.iter().map(|rule| (rule.action, rule.errno_ret)).collect::<Vec<_>>();
        assert_eq!(told(&sockets), [("SCMP_ACT_ERRNO", Some(38))]);
        let old = Platform::new("linux", "386", None);
        let old = Seccomp::default().runtime_spec(Capabilities::CONTAINER, Some(&old)).unwrap().unwrap();
        assert_eq!(told(&about(&old, "socketcall")), [("SCMP_ACT_ALLOW", None)]);
        if cfg!(target_arch = "x86_64") {
            assert_eq!(seccomp.architectures, ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]);
        }
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
        assert!(Seccomp::unconfined().runtime_spec(Capabilities::ALL, None).unwrap().is_none());
    }
}
