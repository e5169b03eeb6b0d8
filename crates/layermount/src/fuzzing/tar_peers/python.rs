//! Python's tarfile, in one process that lists archive after archive.
//!
//! Where it differs on purpose:
//!
//! 1. It joins prefix and name under every magic, not only under ustar's.
//! 2. Whether a v7 file is a directory it decides by the header's own name, also where an extended header gives another.
//! 3. It reads GNU long names up to the first NUL, also behind the end that their size gives.

use std::io::{self, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use super::super::seen::{Seen, size_of_data};
use super::{Differs, Listed, Listing, without_slashes};

pub(super) fn differs(seen: &Seen, archive: &[u8]) -> Differs {
    let headers = seen.headers(archive);
    let own = headers.own.as_bytes();
    let runs_on = |(flag, data): &(u8, &[u8])| matches!(flag, b'L' | b'K') && runs_on(seen, archive, data);
    if headers.extended.iter().any(runs_on) {
        return Differs::FromHere;
    }
    let own_name = own[..100].split(|byte| *byte == 0).next().unwrap_or_default();
    let any_slash = own_name.ends_with(b"/") || seen.entry.name.ends_with(b"/");
    if headers.flag() == 0 && !headers.extended.is_empty() && any_slash {
        return Differs::FromHere;
    }
    let is_ustar = own[257..263] == *b"ustar\0";
    if !is_ustar && !headers.prefix().is_empty() { Differs::Name } else { Differs::No }
}

/// Whether a long name, `data` with its padding, is longer to Python than it was to us.
fn runs_on(seen: &Seen, archive: &[u8], data: &[u8]) -> bool {
    let headers = &archive[seen.headers.clone()];
    let at = data.as_ptr() as usize - headers.as_ptr() as usize;
    let size = size_of_data(tar::Header::from_byte_slice(&headers[at - 512..at])) as usize;
    let text = |bytes: &[u8]| bytes.iter().take_while(|byte| **byte != 0).count();
    text(&data[..size]) != text(data)
}

const SCRIPT: &str = include_str!("list.py");

struct Python {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Started by the first archive; ends with its standard input, when this process ends.
static PYTHON: Mutex<Option<Python>> = Mutex::new(None);

pub(super) fn list(archive: &[u8]) -> io::Result<Listing> {
    let mut python = PYTHON.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let python = match &mut *python {
        Some(python) => python,
        empty => empty.insert(Python::start()?),
    };
    python.list(archive).map_err(|error| io::Error::other(format!("{error}, {:?}", python.child.try_wait())))
}

impl Python {
    fn start() -> io::Result<Self> {
        let mut child =
            Command::new("python3").args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let missing = || io::Error::from(io::ErrorKind::BrokenPipe);
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = BufReader::new(child.stdout.take().ok_or_else(missing)?);
        Ok(Self { child, input, output })
    }

    fn list(&mut self, archive: &[u8]) -> io::Result<Listing> {
        self.input.write_all(&(archive.len() as u32).to_be_bytes())?;
        self.input.write_all(archive)?;
        let mut entries = Vec::new();
        loop {
            let [kind] = self.take()?;
            match kind {
                b'.' => return Ok(Listing { entries, whole: true }),
                b'!' => return Ok(Listing { entries, whole: false }),
                kind => {
                    let name = without_slashes(&self.take_text()?).to_vec();
                    let link = self.take_text()?;
                    let size = u64::from_be_bytes(self.take()?);
                    entries.push(Listed { kind, name, link, size });
                }
            }
        }
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.output.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn take_text(&mut self) -> io::Result<Vec<u8>> {
        let mut text = vec![0; u32::from_be_bytes(self.take()?) as usize];
        self.output.read_exact(&mut text)?;
        Ok(text)
    }
}
