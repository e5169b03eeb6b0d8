//! The `layermount` command: from an image tag to a process inside the image.
//!
//! It parses, calls the library, and prints; what it can do, the crate `layermount` can. Every command is a file of its name.
//! `run_command` is the only place where a failure becomes text and an exit status.

#![cfg_attr(not(test), no_main)]

mod arena;
mod args;
mod bench;
mod config;
mod docs;
mod doctor;
mod enter;
mod failure;
mod images;
mod inspect;
mod kept;
mod layers;
mod mount;
mod parse;
mod places;
mod progress;
mod pull;
mod random;
mod report;
mod run;
mod session;
mod signals;
mod start;
mod store;
mod table;
mod text;
mod unpack;
mod usage;
mod users;

use std::ffi::OsString;
use std::io::Write;

use args::{Cli, Command, Global};
use config::Mistake;
use failure::{ExitStyle, Result};
use report::Report;
use start::ExitCode;

/// What the words of a command line ask for; the first is the program's own name.
fn run_command(words: &[OsString]) -> ExitCode {
    let cli = match parse::command_line(words) {
        Ok(cli) => cli,
        Err(error) => return usage::answer(error, words),
    };
    let (style, format) = (style(&cli.command), cli.global.log_format);
    let Cli { global, command } = match config::expand(cli, words) {
        Ok(cli) => cli,
        Err(Mistake::Line(error)) => return usage::answer(error, words),
        Err(Mistake::File(failure)) => {
            Report::with_format(format).failure(&failure);
            return failure.exit_code(style);
        }
    };
    let done = match command {
        Command::Run(args) => run::run(&args, &global),
        command => carry_out(command, &global),
    };
    done.unwrap_or_else(|failure| {
        Report::new(&global).failure(&failure);
        failure.exit_code(style)
    })
}

fn style(command: &Command) -> ExitStyle {
    match command {
        Command::Run(_) | Command::Enter(_) => ExitStyle::Run,
        Command::Mount(args) if !args.command.is_empty() => ExitStyle::Run,
        _ => ExitStyle::Plain,
    }
}

/// Apart from `run`, which has no use for a stack as large as that of all others together.
#[inline(never)]
fn carry_out(command: Command, global: &Global) -> Result<ExitCode> {
    let out = &mut std::io::stdout().lock();
    match command {
        Command::Run(args) => return run::run(&args, global),
        Command::Bundle(args) => run::bundle::bundle(&args, global),
        Command::Enter(args) => return enter::enter(&args, global),
        Command::Mount(args) => return mount::mount(&args, global),
        Command::Umount(args) => mount::umount(&args, global),
        Command::Bench(args) => {
            let code = bench::bench(&args, global, out)?;
            out.flush()?;
            return Ok(code);
        }
        Command::Doctor(args) => {
            let found = doctor::doctor(&args, global, out)?;
            out.flush()?;
            return Ok(found);
        }
        Command::Pull(args) => pull::pull(&args, global, out),
        Command::Unpack(args) => unpack::unpack(&args, global, out),
        Command::Images(args) => images::images(&args, global, out),
        Command::Inspect(args) => inspect::inspect(&args, global, out),
        Command::Layers(args) => layers::layers(&args, global, out),
        Command::Store(args) => store::store(args.command, global, out),
        Command::Completions { shell } => docs::completions(shell, out),
        Command::Man { dir } => docs::man(dir.as_deref(), out),
    }?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
