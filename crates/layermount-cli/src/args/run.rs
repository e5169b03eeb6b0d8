//! `layermount run`.

mod plain;

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum, ValueHint};

use super::value::absolute_path;
use crate::users::Users;

use super::life::{Life, Streams};
use super::mounts::Mounts;
use super::network::NetworkArgs;
use super::resources::Limited;
use super::security::Security;
use super::{Choice, ConfigFile, EnvSetting, Making, RuntimeChoice, Size, VERBOSE, Volume};

const USAGE: &str = "layermount run [OPTIONS] IMAGE [--] [COMMAND [ARG]...]";

const AFTER_HELP: &str = "\
As in docker, -v is a volume and -h the hostname here: use --verbose and --help.
COMMAND replaces the image's Cmd and is given to its Entrypoint; --entrypoint replaces both.

Exit status: the program's own; 128+N when signal N ended it; 125 when layermount failed; 126 when the program \
could not be executed; 127 when it was not found.";

#[derive(Debug, Default, Args)]
#[command(override_usage = USAGE, disable_help_flag = true, after_help = AFTER_HELP)]
pub(crate) struct RunArgs {
    /// Set a variable; without a value, pass on the one of this environment
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<EnvSetting>,

    /// Read variables from a file, one KEY[=VALUE] a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) env_file: Vec<PathBuf>,

    /// Start in this directory of the image
    #[arg(short, long, value_name = "DIR", value_parser = absolute_path)]
    pub(crate) workdir: Option<PathBuf>,

    /// Run as this user; names are looked up in the image
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,

    /// The host name inside [default: a fresh one]
    #[arg(short = 'h', long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,

    /// Run this program instead of the image's Entrypoint and Cmd
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,

    /// Add a group; names are looked up in the image
    #[arg(long, value_name = "GROUP")]
    pub(crate) group_add: Vec<String>,

    /// Show a directory or file of the host inside; options as ro, nosuid, noexec, dev
    #[arg(short, long = "volume", value_name = "SRC:DST[:OPTION,...]")]
    pub(crate) volumes: Vec<Volume>,

    #[command(flatten)]
    pub(crate) mounts: Mounts,

    /// Keep changes in DIR (made if it is missing) instead of losing them at the end
    #[arg(long, alias = "rwpath", value_name = "DIR", conflicts_with_all = ["upper_size", "read_only"])]
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) upper: Option<PathBuf>,

    /// How much may be changed, such as 512m [default: half of the memory]
    #[arg(long, value_name = "SIZE", conflicts_with = "read_only")]
    pub(crate) upper_size: Option<Size>,

    /// Refuse changes
    #[arg(long)]
    pub(crate) read_only: bool,

    #[command(flatten)]
    pub(crate) choice: Choice,

    /// Keep Docker from removing the image while it runs
    #[arg(long)]
    pub(crate) pin: bool,

    #[command(flatten)]
    pub(crate) making: Making,

    #[command(flatten)]
    pub(crate) security: Security,

    #[command(flatten)]
    pub(crate) limited: Limited,

    #[command(flatten)]
    pub(crate) streams: Streams,

    #[command(flatten)]
    pub(crate) life: Life,

    /// The process tree: private or host
    #[arg(long, value_name = "MODE", default_value = "private", hide_possible_values = true)]
    pub(crate) pid: Sharing,

    /// System V and POSIX message queues and the like: private or host
    #[arg(long, value_name = "MODE", default_value = "private", hide_possible_values = true)]
    pub(crate) ipc: Sharing,

    /// The host name: private or host
    #[arg(long, value_name = "MODE", default_value = "private", hide_possible_values = true)]
    pub(crate) uts: Sharing,

    /// The users inside: auto, keep-id (oneself in place of root), host (root's default) or map:INSIDE:OUTSIDE:COUNT[,...]
    #[arg(long, value_name = "MODE")]
    pub(crate) userns: Option<Users>,

    #[command(flatten)]
    pub(crate) network: NetworkArgs,

    #[command(flatten)]
    pub(crate) runtime: RuntimeChoice,

    #[command(flatten)]
    pub(crate) config: ConfigFile,

    /// Accepted for docker's sake: nothing is left behind anyway
    #[arg(long, hide = true)]
    rm: bool,

    /// Say what is done, and how long it took
    // Takes the place of the global flag, whose -v is a volume here.
    #[arg(long, id = VERBOSE, help_heading = "Global options")]
    pub(crate) verbose: bool,

    /// A directory with a whole tree instead of IMAGE (rootfs:DIR), as systemd-nspawn's --directory and --template
    #[arg(short = 'D', long, alias = "template", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) directory: Option<PathBuf>,

    /// As systemd-nspawn's: changes are lost at the end, as they are anyway
    #[arg(long, hide = true, conflicts_with = "upper")]
    ephemeral: bool,

    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,

    /// The image, then the program and its arguments
    // One list, so that everything behind the image is the program's, whatever it looks like.
    #[arg(required_unless_present_any = ["directory", "config"], trailing_var_arg = true, value_name = "IMAGE")]
    pub(super) words: Vec<OsString>,
}

impl RunArgs {
    /// The image as it was typed.
    pub(crate) fn image(&self) -> Cow<'_, OsStr> {
        if let Some(directory) = &self.directory {
            let mut image = OsString::from("rootfs:");
            image.push(directory);
            return image.into();
        }
        self.words.first().map_or(OsStr::new(""), OsString::as_os_str).into()
    }

    /// There is a tree in place of an image.
    pub(crate) fn has_directory(&self) -> bool {
        self.directory.is_some()
    }

    /// Image and command, as they were typed.
    pub(crate) fn positionals(&self) -> &[OsString] {
        &self.words
    }

    /// What was typed behind the image.
    pub(crate) fn command(&self) -> &[OsString] {
        let image = usize::from(self.directory.is_none());
        match self.words.get(image..).unwrap_or_default() {
            [dashes, command @ ..] if dashes == "--" => command,
            command => command,
        }
    }
}

/// Whose instance of a namespace the program sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sharing {
    /// One of its own.
    #[default]
    Private,
    /// The one that layermount is in.
    Host,
}
