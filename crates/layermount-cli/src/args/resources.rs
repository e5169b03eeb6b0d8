//! How much a program may use: `--memory`, `--cpus`, `--pids-limit`, `--ulimit` and their like.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use layermount::{MemorySwap, Resources, Rlimit};

use super::value::bytes;

#[derive(Debug, Default, Args)]
pub(crate) struct Limited {
    /// How much memory may be used, such as 512m
    #[arg(short, long, value_name = "SIZE", value_parser = bytes, allow_hyphen_values = true)]
    memory: Option<u64>,

    /// Memory and swap together, -1 for any amount of swap [default: twice the memory]
    #[arg(long, value_name = "SIZE", value_parser = swap, allow_hyphen_values = true)]
    memory_swap: Option<MemorySwap>,

    /// How much memory is left to the program when the machine runs short
    #[arg(long, value_name = "SIZE", value_parser = bytes, allow_hyphen_values = true)]
    memory_reservation: Option<u64>,

    /// How many processors' time may be used, such as 0.5
    #[arg(long, value_name = "NUMBER", value_parser = cpus, allow_hyphen_values = true)]
    cpus: Option<Cpus>,

    /// The weight among others that want the processor, where 1024 is usual
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    cpu_shares: Option<u64>,

    /// Run on these processors only, such as 0-2,7
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    cpuset_cpus: Option<String>,

    /// How many processes and threads there may be; -1 for any number
    #[arg(long, value_name = "NUMBER", value_parser = count, allow_hyphen_values = true)]
    pids_limit: Option<Count>,

    /// Make the program's cgroup below this one
    #[arg(long, value_name = "CGROUP", allow_hyphen_values = true)]
    cgroup_parent: Option<PathBuf>,

    /// A limit of each process, such as nofile=1024:4096; -1 for none
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", allow_hyphen_values = true)]
    pub(crate) rlimits: Vec<Rlimit>,
}

impl Limited {
    pub(crate) fn resources(&self) -> Resources {
        let mut resources = Resources::new();
        // As docker has it, 0 is as if nothing was said.
        if let Some(bytes) = self.memory.filter(|bytes| *bytes != 0) {
            resources = resources.memory(bytes);
        }
        if let Some(swap) = self.memory_swap.filter(|swap| *swap != MemorySwap::Total(0)) {
            resources = resources.memory_swap(swap);
        }
        if let Some(bytes) = self.memory_reservation.filter(|bytes| *bytes != 0) {
            resources = resources.memory_reservation(bytes);
        }
        if let Some(Cpus(cpus)) = self.cpus.filter(|cpus| cpus.0 != 0.0) {
            resources = resources.cpus(cpus);
        }
        if let Some(shares) = self.cpu_shares.filter(|shares| *shares != 0) {
            resources = resources.cpu_shares(shares);
        }
        if let Some(list) = self.cpuset_cpus.as_ref().filter(|list| !list.is_empty()) {
            resources = resources.cpuset_cpus(list);
        }
        if let Some(Count(Some(count))) = self.pids_limit {
            resources = resources.pids(count);
        }
        if let Some(parent) = self.cgroup_parent.as_ref().filter(|parent| !parent.as_os_str().is_empty()) {
            // Docker's daemon is in the root, so that both mean the same there.
            resources = resources.parent(PathBuf::from("/").join(parent));
        }
        resources
    }

    /// The limit of memory as it was typed, for those who reach it.
    pub(crate) fn memory(&self) -> Option<u64> {
        self.memory
    }
}

/// How many processors.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cpus(f64);

/// `None` for any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count(Option<u64>);

fn swap(text: &str) -> Result<MemorySwap, String> {
    match text {
        "-1" => Ok(MemorySwap::Unlimited),
        _ => bytes(text).map(MemorySwap::Total),
    }
}

/// A decimal number, and nothing else that `f64` can read.
fn cpus(text: &str) -> Result<Cpus, String> {
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number = if is_decimal { f64::from_str(text).ok() } else { None };
    number.map(Cpus).ok_or_else(|| "it is a number of processors, such as 0.5 or 2".to_owned())
}

fn count(text: &str) -> Result<Count, String> {
    match text {
        "-1" | "0" => Ok(Count(None)),
        _ => match text.parse() {
            Ok(count) => Ok(Count(Some(count))),
            Err(_) => Err("it is a number of processes, or -1 for any number".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        limited: Limited,
    }

    fn read(line: &str) -> Result<Limited, clap::Error> {
        let words = ["x"].into_iter().chain(line.split(' ').filter(|word| !word.is_empty()));
        Line::try_parse_from(words).map(|line| line.limited)
    }

    #[test]
    fn flags_mean_what_they_mean_to_docker() {
        let resources = |line: &str| read(line).unwrap().resources();
        let mib = |count: u64| count << 20;
        let memory = || Resources::new().memory(mib(64));
        assert_eq!(resources(""), Resources::new());
        assert_eq!(resources("-m 64m"), memory());
        assert_eq!(resources("--memory=64M --memory-swap 128m"), memory().memory_swap(MemorySwap::Total(mib(128))));
        assert_eq!(resources("-m64m --memory-swap -1"), memory().memory_swap(MemorySwap::Unlimited));
        assert_eq!(resources("-m 64m --memory-swap 0 --cpus 0 --cpu-shares 0 --pids-limit 0"), memory());
        assert_eq!(resources("--pids-limit -1 -m 0"), Resources::new());
        assert_eq!(
            resources("--cpus .5 --cpu-shares 512 --cpuset-cpus 0-1 --pids-limit 20 --cgroup-parent a/b"),
            Resources::new().cpus(0.5).cpu_shares(512).cpuset_cpus("0-1").pids(20).parent("/a/b")
        );
        let limits = read("--ulimit nofile=1:2 --ulimit core=-1").unwrap().rlimits;
        assert_eq!(limits.iter().map(ToString::to_string).collect::<Vec<_>>(), ["nofile=1:2", "core=-1:-1"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "-m -1",
            "-m x",
            "-m 1.5g",
            "-m 99999999999g",
            "-m",
            "--memory-swap -2",
            "--memory-swap x",
            "--cpus -1",
            "--cpus 1e9",
            "--cpus inf",
            "--cpus NaN",
            "--cpus 1.2.3",
            "--cpus .",
            "--cpu-shares -1",
            "--pids-limit -2",
            "--pids-limit x",
            "--pids-limit 99999999999999999999",
            "--ulimit nofile",
            "--ulimit x=1",
            "--ulimit nofile=-5",
            "--ulimit -1",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
