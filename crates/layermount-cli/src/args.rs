//! The command line, as data.
//!
//! Flags are spelled as docker and podman spell them. Everything a person can get wrong in the spelling alone is found here,
//! before anything is opened.

mod bench;
mod bundle;
mod config;
mod enter;
mod life;
mod listen;
mod mounts;
mod network;
mod resources;
mod run;
mod security;
mod value;

pub(crate) use bench::{BenchArgs, Percent};
pub(crate) use bundle::{BundleArgs, RuntimeChoice};
pub(crate) use config::ConfigFile;
pub(crate) use enter::EnterArgs;
pub(crate) use life::{Life, Streams};
pub(crate) use listen::{ListenAt, UnixSocket};
pub(crate) use mounts::{MountKind, Volume};
pub(crate) use network::{NetworkArgs, NetworkMode};
pub(crate) use resources::Limited;
pub(crate) use run::{RunArgs, Sharing};
pub(crate) use security::{Security, SecurityOption};
pub(crate) use value::{EnvSetting, LimitSetting, Size};

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

/// Put a process inside an image: no daemon, no copy, no runtime.
///
/// layermount takes an image that Docker or an OCI layout on disk already holds, mounts its layers where they lie (or brings
/// them once into its store), and starts your program inside. When the program ends, nothing is left behind.
#[derive(Debug, Parser)]
#[command(
    name = "layermount",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = AFTER_HELP,
    after_long_help = AFTER_LONG_HELP,
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Try: layermount run ubuntu -- cat /etc/os-release
     layermount run oci:./image -- sh";

const AFTER_LONG_HELP: &str = "\
IMAGE is one of:
  NAME[:TAG|@DIGEST], or an image ID   searched in the store, then in Docker
  oci:DIR[:TAG|@DIGEST]                an OCI image layout on disk
  docker-daemon:NAME[:TAG]             Docker only
  rootfs:DIR                           a directory that holds a whole tree

Exit status: 0 on success, 1 on failure, 2 when the command line is wrong. `run` exits as docker does: with the \
program's own status; 128+N when signal N ended it; 125 when layermount failed (also for a wrong command line), \
126 when the program could not be executed, 127 when it was not found.

Environment: LAYERMOUNT_STORE (as --store), LAYERMOUNT_BACKING (as --backing), LAYERMOUNT_DURABLE (as --durable), \
DOCKER_HOST (as --host).

Examples:
  layermount run ubuntu -- cat /etc/os-release
  layermount run -e GREETING=hi -v ./site:/srv:ro oci:./image:v2 -- python3 -m http.server
  layermount mount ubuntu /mnt && ls /mnt && layermount umount /mnt
  layermount unpack oci:./image ./tree
  layermount layers ubuntu";

/// What every command takes.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Keep layers in DIR [default: /var/lib/layermount for root, else ~/.local/share/layermount]
    // LAYERMOUNT_STORE is read where the store is opened: to clap, an empty variable would be an empty directory.
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) store: Option<PathBuf>,

    /// Say what is done, and how long it took (after `run`, only --verbose: there -v is a volume)
    // `run` has an argument of the same id without the short form; clap then leaves it alone and still merges the values.
    #[arg(short, long, global = true, id = VERBOSE)]
    pub(crate) verbose: bool,

    /// Print no progress and no warnings, whatever --verbose says
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    /// How errors and messages are written to stderr; json is one object a line
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", hide_possible_values = true)]
    pub(crate) log_format: LogFormat,
}

/// The id that the global flag and `run`'s own must share.
const VERBOSE: &str = "verbose";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a program inside an image
    Run(Box<RunArgs>),
    /// Write an OCI bundle: a config.json for runc or crun, and the image mounted beside it
    Bundle(BundleArgs),
    /// Run a program beside one that runs inside an image
    Enter(EnterArgs),
    /// Make an image's tree visible at a directory
    Mount(MountArgs),
    /// Take away what `mount` made visible
    #[command(visible_alias = "unmount")]
    Umount(UmountArgs),
    /// Measure how long an image takes to become a running program
    Bench(Box<BenchArgs>),
    /// Make an image ready in the store, so that it runs without the place it came from
    Pull(PullArgs),
    /// Copy an image's tree into a plain directory
    Unpack(UnpackArgs),
    /// List the images in the store
    Images(ImagesArgs),
    /// Show all about images, as JSON in Docker's shape
    Inspect(InspectArgs),
    /// Show an image's layers, base first, and where each lies
    Layers(LayersArgs),
    /// Look after the store
    Store(StoreArgs),
    /// Tell what this machine can do for this user, and what to change where it cannot
    Doctor(DoctorArgs),
    /// Print completions for a shell
    Completions {
        /// The shell to complete for
        shell: Shell,
    },
    /// Print the manual page, or write one page for each command
    Man {
        /// Write layermount.1, layermount-run.1 and so on into DIR
        dir: Option<PathBuf>,
    },
}

/// Which image is meant, where there are several.
#[derive(Debug, Default, Args)]
pub(crate) struct Choice {
    /// The image for this platform [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<layermount::Platform>,

    /// Docker's address, such as unix:///run/docker.sock [default: DOCKER_HOST, or where Docker usually is]
    #[arg(long, value_name = "URL")]
    pub(crate) host: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backing {
    #[default]
    /// The fastest that this machine can mount
    // An empty variable is none.
    #[value(alias = "")]
    Auto,
    /// One directory for each layer
    Dir,
    /// One EROFS file for each layer
    Erofs,
}

/// How layers are made.
#[derive(Debug, Default, Args)]
pub(crate) struct Making {
    /// What layers become in the store: auto, dir or erofs (LAYERMOUNT_BACKING)
    #[arg(long, env = "LAYERMOUNT_BACKING", hide_env = true, value_name = "KIND", default_value = "auto")]
    #[arg(hide_possible_values = true)]
    pub(crate) backing: Backing,

    /// Refuse layers that ask for more than this, such as tar-bytes=10g; --help lists the names
    #[arg(long = "limit", value_name = "NAME=VALUE", long_help = LimitSetting::help())]
    pub(crate) limits: Vec<LimitSetting>,

    /// Have all on disk before going on, so that a power cut loses nothing (LAYERMOUNT_DURABLE=1)
    #[arg(long, env = "LAYERMOUNT_DURABLE", hide_env = true, value_parser = FalseyValueParser::new())]
    pub(crate) durable: bool,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "layermount mount [OPTIONS] IMAGE DIR\n       layermount mount [OPTIONS] IMAGE [DIR] -- COMMAND [ARG]..."
)]
pub(crate) struct MountArgs {
    /// Keep changes in DIR (made if it is missing); the tree becomes writable
    #[arg(long, alias = "rwpath", value_name = "DIR", conflicts_with = "writable")]
    pub(crate) upper: Option<PathBuf>,

    /// Make the tree writable; changes are lost when it is unmounted
    #[arg(long)]
    pub(crate) writable: bool,

    #[command(flatten)]
    pub(crate) choice: Choice,

    #[command(flatten)]
    pub(crate) making: Making,

    /// The image
    pub(crate) image: String,

    /// An existing directory to show it at; may be left out in front of a command
    #[arg(required_unless_present = "command")]
    pub(crate) dir: Option<PathBuf>,

    /// Run this on the host, with the image at $LAYERMOUNT_ROOT for it alone, also as an ordinary user
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct UmountArgs {
    /// Where `mount` showed the image, or what `bundle` made
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    #[command(flatten)]
    pub(crate) choice: Choice,

    #[command(flatten)]
    pub(crate) making: Making,

    /// The image
    pub(crate) image: String,
}

#[derive(Debug, Args)]
pub(crate) struct UnpackArgs {
    #[command(flatten)]
    pub(crate) choice: Choice,

    #[command(flatten)]
    pub(crate) making: Making,

    /// The image
    pub(crate) image: String,

    /// A directory that is empty or not there yet; it gets the owner and mode of the image's root
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Print an array of objects
    #[arg(long)]
    pub(crate) json: bool,

    /// Print whole image IDs
    #[arg(long)]
    pub(crate) no_trunc: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) choice: Choice,

    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LayersArgs {
    /// Print an array of objects
    #[arg(long)]
    pub(crate) json: bool,

    /// Print whole digests and commands
    #[arg(long)]
    pub(crate) no_trunc: bool,

    #[command(flatten)]
    pub(crate) choice: Choice,

    /// The image
    pub(crate) image: String,
}

/// Everything is tried, and nothing is left behind. The exit status is 0 where `run` can be expected to work, otherwise 1.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print an object
    #[arg(long)]
    pub(crate) json: bool,

    /// Docker's address, such as unix:///run/docker.sock [default: DOCKER_HOST, or where Docker usually is]
    #[arg(long, value_name = "URL")]
    pub(crate) host: Option<String>,
}

#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    pub(crate) command: StoreCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// List the layers
    Ls {
        /// Print an array of objects
        #[arg(long)]
        json: bool,
    },
    /// Tell what the store takes on disk
    Df {
        /// Print an object
        #[arg(long)]
        json: bool,
    },
    /// Read every layer and compare it with what was unpacked
    Verify,
    /// Write a layer's archive as it was, uncompressed (only EROFS files keep it)
    ExportLayer {
        /// The layer's diff ID, or the first digits of it
        diff_id: String,
        /// Write into this file instead of standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Keep an image in EROFS files mounted, so that it starts faster and its programs share their pages (root)
    Mount {
        #[command(flatten)]
        choice: Choice,
        #[command(flatten)]
        making: Making,
        /// The image; it is pulled where it is not in the store
        image: String,
    },
    /// End what `store mount` began; programs that run in the image go on
    #[command(visible_alias = "unmount")]
    Umount {
        /// All images
        #[arg(short, long, conflicts_with = "image")]
        all: bool,
        /// The image
        #[arg(required_unless_present = "all")]
        image: Option<String>,
    },
    /// Remove layers that no pulled image needs and no process uses
    Prune {
        /// Forget all images first
        #[arg(short, long)]
        all: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_agree_with_each_other() {
        Cli::command().debug_assert();
    }

    fn parse(words: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("layermount").chain(words.split_whitespace()))
    }

    fn run(words: &str) -> (Global, RunArgs) {
        let cli = parse(words).unwrap();
        match cli.command {
            Command::Run(run) => (cli.global, *run),
            other => panic!("not run: {other:?}"),
        }
    }

    #[test]
    fn v_is_verbose_except_behind_run() {
        assert!(parse("-v images").unwrap().global.verbose);
        assert!(parse("images -v").unwrap().global.verbose);
        assert!(parse("store ls -v").unwrap().global.verbose);
        assert!(!parse("images").unwrap().global.verbose);
        let (global, args) = run("-v run -v ./a:/b:ro image");
        assert!(global.verbose);
        assert_eq!(args.volumes.len(), 1);
        assert!(run("run --verbose image").0.verbose);
        assert!(!run("run -v /a:/b image").0.verbose);
    }

    #[test]
    fn whatever_follows_the_image_is_the_command() {
        for (line, expected) in [
            ("run image", &[][..]),
            ("run image --", &[]),
            ("run image -- ls -l", &["ls", "-l"]),
            ("run image ls -l", &["ls", "-l"]),
            ("run image -e A=B --help", &["-e", "A=B", "--help"]),
            ("run -e A=B -- image ls --", &["ls", "--"]),
            ("run image -- -- x", &["--", "x"]),
        ] {
            let (_, args) = run(line);
            assert_eq!(&*args.image(), "image", "{line}");
            assert_eq!(args.command(), expected, "{line}");
        }
    }

    #[test]
    fn a_directory_takes_the_place_of_the_image() {
        for line in
            ["run -D ./tree ls -l", "run --directory ./tree -- ls -l", "run --template ./tree --ephemeral ls -l"]
        {
            let (_, args) = run(line);
            assert_eq!(
                (&*args.image(), args.command()),
                ("rootfs:./tree".as_ref(), &["ls".into(), "-l".into()][..]),
                "{line}"
            );
        }
        assert!(run("run -D /tree").1.command().is_empty());
    }

    #[test]
    fn h_is_the_hostname_behind_run_only() {
        assert_eq!(run("run -h box image").1.hostname.as_deref(), Some("box"));
        assert_eq!(parse("pull -h").unwrap_err().kind(), clap::error::ErrorKind::DisplayHelp);
        assert_eq!(parse("run --help").unwrap_err().kind(), clap::error::ErrorKind::DisplayHelp);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for bad in [
            "run --read-only --upper d image",
            "run --upper-size 1m --upper d image",
            "run",
            "run -D dir --upper d --ephemeral sh",
            "run -D dir --template dir sh",
            "mount --upper d --writable image dir",
            "mount image",
            "unpack image",
            "inspect",
            "store",
            "run --network bridge image",
            "run -w relative image",
            "run --platform amd64 image",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
