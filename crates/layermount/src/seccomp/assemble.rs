//! Rules as a program of classic BPF, which the kernel runs at each system call.
//!
//! The number of the call is looked for by halving down to a few calls, which are then told apart one by one: most refused calls
//! have allowed neighbours. What is looked up so, the kernel can foresee: it runs the program for every number when it is
//! installed, and remembers which calls are always allowed (Linux 5.11).
//!
//! What installing costs (measured on Linux 6.18): some 20 us for a program of one instruction; 0.2 us for each further one, which the
//! kernel checks and translates; and 1.5 us for each that lies on the way of every call, when the kernel foresees some 450 numbers,
//! once for its own programs and once for 32-bit ones. Those are rare, so the kernel is kept from foreseeing theirs.

use nix::libc;

use super::abi::Abi;
use super::condition::Rule;
use super::program::{ARCHITECTURE, INSTRUCTION_POINTER, Label, NUMBER, Program};
use super::{Action, SeccompError};
use crate::sys::confine::Filter;

/// The kernel's limit (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// How many calls are told apart one by one.
const AT_ONCE: u32 = 4;

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
    pub(super) calls: Vec<(Abi, Vec<(u32, Treatment)>)>,
    /// For calls that have no rule.
    pub(super) otherwise: Action,
    /// For calls of other ABIs than those.
    pub(super) foreign: Action,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(super) flags: u32,
}

impl Rules {
    pub(super) fn assemble(mut self) -> Result<Filter, SeccompError> {
        self.calls.iter_mut().for_each(|(_, calls)| calls.sort_by_key(|(number, _)| *number));
        let unruled = Treatment::Always(self.otherwise);
        // A profile cannot have meant to refuse what was not thought of yet; programs try other calls after ENOSYS alone.
        let newer = Treatment::Always(if self.otherwise.is_errno() { Action::UNKNOWN } else { self.otherwise });
        let foreign = Treatment::Always(self.foreign);
        let mut assembler = Assembler { program: Program::default(), otherwise: self.otherwise, known: Vec::new() };
        let mut next = assembler.program.answer(self.foreign);
        // The last is looked for first: the kernel's own.
        for (abi, calls) in self.calls.iter().rev() {
            let mut ranges = Ranges(Vec::new());
            let mut from = 0;
            for (number, treatment) in calls {
                if *number > from {
                    ranges.push(from, &unruled);
                }
                ranges.push(*number, treatment);
                from = number.saturating_add(1);
            }
            ranges.push(from, &newer);
            if let Some(bound) = abi.foreign_from() {
                ranges.push(bound.max(from), &foreign);
            }
            let search = assembler.search(&ranges.parts());
            let mut search = assembler.program.load(NUMBER, search);
            if Abi::HERE.first() != Some(abi) {
                // The kernel gives up foreseeing at a word that it does not know. Nothing else comes of it.
                search = assembler.program.load(INSTRUCTION_POINTER, search);
            }
            next = assembler.program.branch(libc::BPF_JEQ, abi.audit_number(), search, next);
        }
        assembler.program.load(ARCHITECTURE, next);
        let program = assembler.program.finish();
        match program.len() {
            ..=MAX_INSTRUCTIONS => Ok(Filter { program, flags: self.flags }),
            instructions => Err(SeccompError::TooLong { instructions }),
        }
    }
}

/// From a number on, up to the next.
struct Ranges<'a>(Vec<(u32, &'a Treatment)>);

/// A few ranges, nearly all of whose calls are treated alike.
struct Part<'a> {
    from: u32,
    mostly: &'a Treatment,
    but: Vec<(u32, &'a Treatment)>,
}

impl<'a> Ranges<'a> {
    fn push(&mut self, from: u32, treatment: &'a Treatment) {
        match self.0.last() {
            Some((_, last)) if *last == treatment => {}
            _ => self.0.push((from, treatment)),
        }
    }

    /// As few as can be had by taking as much as possible into each.
    fn parts(&self) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        let mut rest = self.0.as_slice();
        while let Some((from, first)) = rest.first() {
            let take = |mostly: &'a Treatment| {
                let mut but = Vec::new();
                let mut taken = 0;
                for (index, (number, treatment)) in rest.iter().enumerate() {
                    if *treatment != mostly {
                        let Some((end, _)) = rest.get(index + 1) else { break };
                        if but.len() as u32 + (end - number) > AT_ONCE {
                            break;
                        }
                        but.extend((*number..*end).map(|number| (number, *treatment)));
                    }
                    taken = index + 1;
                }
                (taken, Part { from: *from, mostly, but })
            };
            let second = rest.get(1).map_or(*first, |(_, second)| second);
            let (taken, part) = [*first, second]
                .map(take)
                .into_iter()
                .max_by_key(|(taken, part)| (*taken, std::cmp::Reverse(part.but.len())))
                .unzip();
            // The first range alone can always be taken.
            rest = rest.get(taken.unwrap_or(1).max(1)..).unwrap_or_default();
            parts.extend(part);
        }
        parts
    }
}

struct Assembler<'a> {
    program: Program,
    otherwise: Action,
    /// What looks at arguments, for all calls that it is the same for.
    known: Vec<(&'a Treatment, Label)>,
}

impl<'a> Assembler<'a> {
    fn search(&mut self, parts: &[Part<'a>]) -> Label {
        let (below, above) = parts.split_at(parts.len() / 2);
        match (below, above) {
            ([], [part]) => part.but.iter().rev().fold(self.treat(part.mostly), |next, (number, treatment)| {
                let treat = self.treat(treatment);
                self.program.branch(libc::BPF_JEQ, *number, treat, next)
            }),
            (_, [Part { from, .. }, ..]) => {
                let above = self.search(above);
                let below = self.search(below);
                self.program.branch(libc::BPF_JGE, *from, above, below)
            }
            (_, []) => self.program.answer(self.otherwise),
        }
    }

    fn treat(&mut self, treatment: &'a Treatment) -> Label {
        match treatment {
            Treatment::Always(action) => self.program.answer(*action),
            Treatment::Depends(rules) => {
                if let Some((_, label)) = self.known.iter().find(|(known, _)| *known == treatment) {
                    return *label;
                }
                let otherwise = self.program.answer(self.otherwise);
                let label = rules.iter().rev().fold(otherwise, |no, rule| rule.emit(&mut self.program, no));
                self.known.push((treatment, label));
                label
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use nix::libc::sock_filter;

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

    use super::super::condition::{Condition, Test};

    const OWN: Abi = Abi::HERE[0];
    const HERE: u32 = OWN.audit_number();

    fn only(calls: Vec<(u32, Treatment)>, otherwise: Action) -> Rules {
        Rules { calls: vec![(OWN, calls)], otherwise, foreign: Action::UNKNOWN, flags: 0 }
    }

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
                let filter = only(calls, Action::REFUSE).assemble().unwrap();
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
        let filter = only(calls.collect(), Action::REFUSE).assemble().unwrap();
        assert!(filter.program.len() > 255);
        for number in 0..240 {
            let expected = if number % 3 == 1 { Action::errno((number / 3) as i32 + 100) } else { Action::REFUSE };
            let expected = if number > 238 { Action::UNKNOWN } else { expected };
            assert_eq!(answer_to(&filter, HERE, number, [0; 6]), expected, "{number}");
        }
        assert_eq!(answer_to(&filter, HERE, u32::MAX, [0; 6]), Action::UNKNOWN);
        assert_eq!(answer_to(&filter, 0x4000_0003, 4, [0; 6]), Action::UNKNOWN, "i386");
        let calls = (0..4000).map(|n| (2 * n, Treatment::Always(Action::ALLOW))).collect();
        let error = only(calls, Action::REFUSE).assemble().unwrap_err();
        assert!(matches!(error, SeccompError::TooLong { .. }));
    }

    #[test]
    fn a_list_of_what_is_refused_leaves_no_way_around() {
        let calls = vec![(10, Treatment::Always(Action::REFUSE))];
        let filter = only(calls, Action::ALLOW).assemble().unwrap();
        let answer = |number| answer_to(&filter, HERE, number, [0; 6]);
        assert_eq!((answer(9), answer(10), answer(11)), (Action::ALLOW, Action::REFUSE, Action::ALLOW));
        if cfg!(target_arch = "x86_64") {
            assert_eq!(answer(0x4000_0000 + 10), Action::UNKNOWN);
        }
    }
}
