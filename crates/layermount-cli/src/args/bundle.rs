//! `layermount bundle`, and `run --runtime`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::Error;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};

use super::RunArgs;

/// Who runs the program.
#[derive(Debug, Default, Args)]
pub(crate) struct RuntimeChoice {
    /// Have the program run by an OCI runtime: crun, runc, or a path
    #[arg(long, value_name = "NAME|PATH", value_hint = clap::ValueHint::CommandName)]
    pub(crate) runtime: Option<PathBuf>,
}

const USAGE: &str = "layermount bundle [OPTIONS] IMAGE DIR [OPTIONS] [-- COMMAND [ARG]...]";

const AFTER_HELP: &str = "\
DIR must not exist, or be empty. Afterwards it has a config.json and the image, mounted at DIR/rootfs: 'runc run -b DIR NAME' or \
'crun run -b DIR NAME' runs it as `layermount run` would. The flags are those of `run`.

To remove it: layermount umount DIR && rm -r DIR";

/// What `run` takes, with a directory behind the image.
#[derive(Debug)]
pub(crate) struct BundleArgs {
    pub(crate) run: Box<RunArgs>,
    dir: PathBuf,
}

impl BundleArgs {
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The positionals of `run` are one list, of which nothing behind the image is an option any more. Here options may also follow.
impl Args for BundleArgs {
    fn augment_args(command: Command) -> Command {
        RunArgs::augment_args(command)
            .override_usage(USAGE)
            .after_help(AFTER_HELP)
            .mut_arg("words", |words| {
                let help = "The image, and the directory for the bundle";
                // With --config the image may be named there.
                words.trailing_var_arg(false).num_args(1..=2).value_names(["IMAGE", "DIR"]).help(help)
            })
            .arg(
                Arg::new("program")
                    .last(true)
                    .num_args(0..)
                    .value_name("COMMAND")
                    .value_parser(value_parser!(OsString))
                    .help("The program and its arguments, in place of the image's Cmd"),
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for BundleArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut run = RunArgs::from_arg_matches(matches)?;
        let lacking = |what| Error::raw(clap::error::ErrorKind::MissingRequiredArgument, format!("name {what}\n"));
        // With --config there may be an image in the file.
        let may_lack_image = run.config.config.is_some() || run.has_directory();
        let dir = match run.words.len() {
            2 if !run.has_directory() => run.words.pop().map(PathBuf::from),
            1 if may_lack_image => run.words.pop().map(PathBuf::from),
            _ => None,
        };
        let dir = dir.ok_or_else(|| lacking("an image and a directory for the bundle"))?;
        let mut program = matches.get_many::<OsString>("program").into_iter().flatten().cloned().peekable();
        if program.peek().is_some() {
            run.words.push("--".into());
            run.words.extend(program);
        }
        Ok(Self { run: Box::new(run), dir })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
