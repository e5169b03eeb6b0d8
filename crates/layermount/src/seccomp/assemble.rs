//! Rules as a program of classic BPF, which the kernel runs at each system call.
//!
//! The number of the call is looked for by halving, so that no call is far away; calls in a row that are treated alike are one
//! step. (The kernel itself remembers which calls are always allowed: Linux 5.11.) All jumps go forward.

use nix::libc::{self, sock_filter};

use super::{Action, SeccompError};
use crate::sys::confine::Filter;

/// `AUDIT_ARCH_*` of `include/uapi/linux/audit.h`: ELF's number for the machine, 64 bits, little-endian.
pub(super) const ARCHITECTURE: Option<u32> = if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
    Some(0xC000_003E)
} else if cfg!(all(target_arch = "aarch64", target_endian = "little", target_pointer_width = "64")) {
    Some(0xC000_00B7)
} else {
    None
};

/// The same as the OCI runtime specification names it.
pub(super) const ARCHITECTURE_NAME: &str =
    if cfg!(target_arch = "x86_64") { "SCMP_ARCH_X86_64" } else { "SCMP_ARCH_AARCH64" };

/// On x86-64, calls of the x32 ABI have this bit in their number, and would slip past rules for the plain one.
const X32: u32 = 0x4000_0000;

/// The kernel's limit (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// An argument is compared as 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) argument: u32,
    pub(super) test: Test,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    Masked { mask: u64, value: u64 },
}

/// What happens when all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: Action,
}

/// How a call is treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Treatment {
    Always(Action),
    /// The first rule that holds, or what is done with calls that have no rule.
    Depends(Vec<Rule>),
}

/// A whole filter.
#[derive(Debug)]
pub(super) struct Rules {
    /// By number, in any order.
    pub(super) calls: Vec<(u32, Treatment)>,
    /// For calls that have no rule.
    pub(super) otherwise: Action,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(super) flags: u32,
}

impl Rules {
    pub(super) fn assemble(mut self) -> Result<Filter, SeccompError> {
        self.calls.sort_by_key(|(number, _)| *number);
        let unruled = Treatment::Always(self.otherwise);
        // A profile cannot have meant to refuse what was not thought of yet; programs try other calls after ENOSYS alone.
        let newer = Treatment::Always(if self.otherwise.is_errno() { Action::UNKNOWN } else { self.otherwise });
        let x32 = Treatment::Always(Action::UNKNOWN);
        let mut ranges = Ranges(Vec::new());
        let mut next = 0;
        for (number, treatment) in &self.calls {
            if *number > next {
                ranges.push(next, &unruled);
            }
            ranges.push(*number, treatment);
            next = number.saturating_add(1);
        }
        ranges.push(next, &newer);
        if cfg!(target_arch = "x86_64") {
            ranges.push(X32.max(next), &x32);
        }
        let mut program = vec![
            load(ARCH),
            jump(libc::BPF_JEQ, ARCHITECTURE.unwrap_or_default(), 1, 0),
            answer(Action::KILL_PROCESS),
            load(NUMBER),
        ];
        search(&ranges.0, self.otherwise, &mut program);
        match program.len() {
            ..=MAX_INSTRUCTIONS => Ok(Filter { program, flags: self.flags }),
            instructions => Err(SeccompError::TooLong { instructions }),
        }
    }
}

/// From a number on, up to the next.
struct Ranges<'a>(Vec<(u32, &'a Treatment)>);

impl<'a> Ranges<'a> {
    fn push(&mut self, from: u32, treatment: &'a Treatment) {
        match self.0.last() {
            Some((_, last)) if *last == treatment => {}
            _ => self.0.push((from, treatment)),
        }
    }
}

fn search(ranges: &[(u32, &Treatment)], otherwise: Action, program: &mut Vec<sock_filter>) {
    let (below, above) = ranges.split_at(ranges.len() / 2);
    match (below, above) {
        ([], [(_, treatment)]) => treat(treatment, otherwise, program),
        (_, [(from, _), ..]) => {
            let branch = program.len();
            search(below, otherwise, program);
            let distance = program.len() - branch;
            // A conditional jump reaches 255 instructions far.
            match u8::try_from(distance) {
                Ok(distance) => program.insert(branch, jump(libc::BPF_JGE, *from, distance, 0)),
                Err(_) => {
                    let far = instruction(libc::BPF_JMP | libc::BPF_JA, u32::try_from(distance).unwrap_or(u32::MAX));
                    program.splice(branch..branch, [jump(libc::BPF_JGE, *from, 0, 1), far]);
                }
            }
            search(above, otherwise, program);
        }
        (_, []) => {}
    }
}

fn treat(treatment: &Treatment, otherwise: Action, program: &mut Vec<sock_filter>) {
    match treatment {
        Treatment::Always(action) => program.push(answer(*action)),
        Treatment::Depends(rules) => {
            for rule in rules {
                program.extend(rule.instructions());
            }
            program.push(answer(otherwise));
        }
    }
}

impl Rule {
    /// Ends with the answer, or goes on behind it.
    fn instructions(&self) -> Vec<sock_filter> {
        let mut code = vec![answer(self.action)];
        for condition in self.conditions.iter().rev() {
            // At most six conditions of at most seven instructions.
            let rest = code.len() as u8;
            code.splice(0..0, condition.instructions(rest));
        }
        code
    }
}

impl Condition {
    /// Goes on behind itself when it holds; otherwise another `rest` instructions further. The upper half is looked at first.
    fn instructions(&self, rest: u8) -> Vec<sock_filter> {
        let offset = ARGUMENTS + 8 * self.argument;
        let (low, high) = (load(offset), load(offset + 4));
        let halves = |value: u64| ((value >> 32) as u32, value as u32);
        let and = |mask| instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask);
        let equal = |value, yes, no| jump(libc::BPF_JEQ, value, yes, no);
        let greater = |value, yes, no| jump(libc::BPF_JGT, value, yes, no);
        let at_least = |value, yes, no| jump(libc::BPF_JGE, value, yes, no);
        match self.test {
            Test::Equal(value) => {
                let (upper, lower) = halves(value);
                vec![high, equal(upper, 0, rest + 2), low, equal(lower, 0, rest)]
            }
            Test::NotEqual(value) => {
                let (upper, lower) = halves(value);
                vec![high, equal(upper, 0, 2), low, equal(lower, rest, 0)]
            }
            Test::Masked { mask, value } => {
                let ((upper_mask, lower_mask), (upper, lower)) = (halves(mask), halves(value));
                vec![high, and(upper_mask), equal(upper, 0, rest + 3), low, and(lower_mask), equal(lower, 0, rest)]
            }
            Test::Greater(value) => {
                let (upper, lower) = halves(value);
                vec![high, greater(upper, 3, 0), equal(upper, 0, rest + 2), low, greater(lower, 0, rest)]
            }
            Test::GreaterOrEqual(value) => {
                let (upper, lower) = halves(value);
                vec![high, greater(upper, 3, 0), equal(upper, 0, rest + 2), low, at_least(lower, 0, rest)]
            }
            Test::LessOrEqual(value) => {
                let (upper, lower) = halves(value);
                vec![high, greater(upper, rest + 3, 0), equal(upper, 0, 2), low, greater(lower, rest, 0)]
            }
            Test::Less(value) => {
                let (upper, lower) = halves(value);
                vec![high, greater(upper, rest + 3, 0), equal(upper, 0, 2), low, at_least(lower, rest, 0)]
            }
        }
    }
}

fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn answer(action: Action) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, action.0)
}

fn instruction(code: u32, k: u32) -> sock_filter {
    // Codes have 16 bits.
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn jump(comparison: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { jt, jf, ..instruction(libc::BPF_JMP | comparison | libc::BPF_K, k) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What the kernel would make of a call.
    pub(crate) fn answer_to(filter: &Filter, arch: u32, number: u32, arguments: [u64; 6]) -> Action {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(arch.to_le_bytes());
        data.extend(0_u64.to_le_bytes());
        arguments.iter().for_each(|argument| data.extend(argument.to_le_bytes()));
        let (mut at, mut accumulator) = (0, 0_u32);
        loop {
            let sock_filter { code, jt, jf, k } = filter.program[at];
            let code = u32::from(code);
            at += 1;
            let mut branch = |taken: bool| at += usize::from(if taken { jt } else { jf });
            match code {
                _ if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    let k = k as usize;
                    accumulator = u32::from_le_bytes(data[k..k + 4].try_into().unwrap());
                }
                _ if code == libc::BPF_RET | libc::BPF_K => return Action(k),
                _ if code == libc::BPF_JMP | libc::BPF_JA => at += k as usize,
                _ if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => branch(accumulator == k),
                _ if code == libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K => branch(accumulator > k),
                _ if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => branch(accumulator >= k),
                _ if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => accumulator &= k,
                _ => panic!("{code:#x}"),
            }
        }
    }

    const HERE: u32 = ARCHITECTURE.unwrap();

    type Expected = fn(u64, u64) -> bool;

    #[test]
    fn conditions_compare_64_bits() {
        let values = [0, 1, 2, 0xffff_ffff, 1 << 32, (1 << 32) + 1, (1 << 33) + 1, u64::MAX - 1, u64::MAX];
        for against in values {
            let cases: [(Test, Expected); 6] = [
                (Test::Equal(against), |a, b| a == b),
                (Test::NotEqual(against), |a, b| a != b),
                (Test::Less(against), |a, b| a < b),
                (Test::LessOrEqual(against), |a, b| a <= b),
                (Test::Greater(against), |a, b| a > b),
                (Test::GreaterOrEqual(against), |a, b| a >= b),
            ];
            let mask = 0x1_0000_0003;
            let masked = Test::Masked { mask, value: against };
            for (test, expected) in cases.into_iter().chain([(masked, (|a, b| a & 0x1_0000_0003 == b) as Expected)]) {
                // Behind a condition that holds, and before another rule.
                let first = Condition { argument: 0, test: Test::Equal(7) };
                let conditions = vec![first, Condition { argument: 5, test }, first];
                let other = Rule { conditions: vec![first], action: Action::errno(5) };
                let rules = vec![Rule { conditions, action: Action::ALLOW }, other];
                let calls = vec![(10, Treatment::Depends(rules))];
                let filter = Rules { calls, otherwise: Action::REFUSE, flags: 0 }.assemble().unwrap();
                for value in values {
                    let answer = |first| answer_to(&filter, HERE, 10, [first, 0, 0, 0, 0, value]);
                    let wanted = if expected(value, against) { Action::ALLOW } else { Action::errno(5) };
                    assert_eq!(answer(7), wanted, "{test:?} {value:#x}");
                    assert_eq!(answer(8), Action::REFUSE);
                }
            }
        }
    }

    #[test]
    fn every_call_is_found() {
        // Far apart, and each with enough to say that the halves do not reach each other.
        let rule = |errno| Rule {
            conditions: (0..6).map(|argument| Condition { argument, test: Test::Equal(0) }).collect(),
            action: Action::errno(errno),
        };
        let calls = (0..80).map(|n| (3 * n + 1, Treatment::Depends(vec![rule(n as i32 + 100)])));
        let filter = Rules { calls: calls.collect(), otherwise: Action::REFUSE, flags: 0 }.assemble().unwrap();
        assert!(filter.program.len() > 1000);
        for number in 0..240 {
            let expected = if number % 3 == 1 { Action::errno((number / 3) as i32 + 100) } else { Action::REFUSE };
            let expected = if number > 238 { Action::UNKNOWN } else { expected };
            assert_eq!(answer_to(&filter, HERE, number, [0; 6]), expected, "{number}");
        }
        assert_eq!(answer_to(&filter, HERE, u32::MAX, [0; 6]), Action::UNKNOWN);
        assert_eq!(answer_to(&filter, 0x4000_0003, 4, [0; 6]), Action::KILL_PROCESS, "i386");
        let calls = (0..4000).map(|n| (2 * n, Treatment::Always(Action::ALLOW))).collect();
        let error = Rules { calls, otherwise: Action::REFUSE, flags: 0 }.assemble().unwrap_err();
        assert!(matches!(error, SeccompError::TooLong { .. }));
    }

    #[test]
    fn a_list_of_what_is_refused_leaves_no_way_around() {
        let calls = vec![(10, Treatment::Always(Action::REFUSE))];
        let filter = Rules { calls, otherwise: Action::ALLOW, flags: 0 }.assemble().unwrap();
        let answer = |number| answer_to(&filter, HERE, number, [0; 6]);
        assert_eq!((answer(9), answer(10), answer(11)), (Action::ALLOW, Action::REFUSE, Action::ALLOW));
        if cfg!(target_arch = "x86_64") {
            assert_eq!(answer(X32 + 10), Action::UNKNOWN);
        }
    }
}
