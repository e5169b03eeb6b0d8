//! A terminal, with layermount in its foreground and a test in front of it.

#![allow(dead_code, reason = "every test file uses a part")]

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::{ControlFlags, InputFlags, LocalFlags, OutputFlags, Termios, tcgetattr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Console {
    master: File,
    /// Keeps the terminal as it is when everybody else has left.
    slave: File,
    child: Child,
    said: String,
    /// How much of it has been waited for.
    seen: usize,
    before: Termios,
}

impl Console {
    /// Starts a command as the leader of a session on a new terminal.
    pub(crate) fn start(command: &Command, size: (u16, u16)) -> Self {
        let size = Winsize { ws_row: size.0, ws_col: size.1, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).unwrap();
        let before = tcgetattr(&slave).unwrap();
        let stream = || slave.try_clone().unwrap();
        let mut session = Command::new("setsid");
        // Where tests run in the background, some signals are ignored.
        session.args(["--ctty", "env", "--default-signal=INT,QUIT,HUP"]);
        session.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        let child = session.env("TERM", "vt220").stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap();
        Self { master: master.into(), slave: slave.into(), child, said: String::new(), seen: 0, before }
    }

    pub(crate) fn id(&self) -> i32 {
        self.child.id() as i32
    }

    /// Reads what comes within a moment.
    fn read(&mut self) -> bool {
        let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 })).unwrap() == 0 {
            return false;
        }
        let mut bytes = [0; 65536];
        let read = self.master.read(&mut bytes).unwrap();
        self.said.push_str(&String::from_utf8_lossy(&bytes[..read]));
        true
    }

    /// Reads until the text has come once more.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.said[self.seen..].find(text) {
                self.seen += at + text.len();
                return;
            }
            assert!(Instant::now() < deadline, "{text:?} did not come: {}", self.said);
            self.read();
        }
    }

    pub(crate) fn enter(&mut self, typed: &str) {
        self.master.write_all(typed.as_bytes()).unwrap();
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, size).unwrap();
    }

    /// Whether a line is edited here before it is read.
    pub(crate) fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_flags.contains(LocalFlags::ICANON)
    }

    /// Whether the command is stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        stat.rsplit(')').next().unwrap().trim().starts_with('T')
    }

    /// Its status, and all that came. The terminal must be as it was.
    #[track_caller]
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                self.child.kill().unwrap();
                panic!("it does not end: {}", self.said);
            }
            self.read();
        };
        while self.read() {}
        let now = tcgetattr(&self.slave).unwrap();
        assert_eq!(settings(&now), settings(&self.before), "the terminal is not as it was");
        (status.code(), std::mem::take(&mut self.said))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the kernel says of a terminal: with musl, the rest of the structure is whatever was in its place.
fn settings(termios: &Termios) -> (InputFlags, OutputFlags, ControlFlags, LocalFlags, [u8; 17]) {
    let characters = std::array::from_fn(|number| termios.control_chars[number]);
    (termios.input_flags, termios.output_flags, termios.control_flags, termios.local_flags, characters)
}
