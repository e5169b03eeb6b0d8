use std::path::Path;

use clap::builder::ValueParser;
use clap::{ArgAction, ValueHint};

use super::*;

fn words(line: &str) -> Vec<OsString> {
    line.split(' ').map(OsString::from).collect()
}

/// What is wrong with a file: message and hint.
fn mistake(text: &str) -> (String, Option<String>) {
    let failure = Document::parse(text, Path::new("app.toml"), &options()).expect_err(text);
    (failure.message, failure.hint)
}

/// The command line that a file and typed words come to, without what is in front of the subcommand.
fn expanded(text: &str, typed: &str) -> String {
    let typed = words(typed);
    let cli = Cli::try_parse_from(&typed).unwrap_or_else(|error| panic!("{typed:?}: {error}"));
    let document = Document::parse(text, Path::new("dir/app.toml"), &options()).unwrap();
    let line = match &cli.command {
        Command::Run(args) => line(&document, &typed, "run", args, false),
        Command::Bundle(bundle) => line(&document, &typed, "bundle", &bundle.run, true),
        _ => panic!(),
    };
    let line = line.unwrap();
    Cli::try_parse_from(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
    line[1..].iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_long_option_of_run_is_a_key() {
    let whole = options();
    let run = whole.find_subcommand("run").unwrap();
    let mut keys = 0;
    for arg in run.get_arguments() {
        let names = arg.get_long().into_iter().chain(arg.get_all_aliases().into_iter().flatten());
        for name in names.filter(|name| !["config", "help", "version"].contains(name)) {
            // Wrong for every option: what is unknown is said to be unknown, and comes first.
            let (message, _) = mistake(&format!("{name} = 1979-05-27"));
            assert!(!message.contains("unknown") && message.contains(name), "{message}");
            let flag = matches!(arg.get_action(), ArgAction::SetTrue);
            assert_eq!(message.contains("true or false"), flag, "{message}");
            keys += 1;
        }
    }
    assert!(keys > 25, "{keys}");
}

/// Or relative paths in a file would be relative to something else. Those inside of the image are no paths of the host.
#[test]
fn options_with_paths_of_the_host_have_a_hint() {
    const INSIDE: [&str; 1] = ["workdir"];
    let path = ValueParser::path_buf().type_id();
    let whole = options();
    let run = whole.find_subcommand("run").unwrap();
    for arg in run.get_arguments().filter(|arg| arg.get_value_parser().type_id() == path) {
        let long = arg.get_long().unwrap_or_default();
        let hinted = arg.get_value_hint() != ValueHint::Unknown;
        assert!(hinted || INSIDE.contains(&long), "--{long} needs a value_hint, or is a path inside");
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (text, message, hint) in [
        ("reed-only = true", "app.toml:1:1: unknown key \"reed-only\"", Some("did you mean \"read-only\"?")),
        ("\n\n  envs = []", "app.toml:3:3: unknown key \"envs\"", Some("did you mean \"env\"?")),
        ("imag = \"x\"", "app.toml:1:1: unknown key \"imag\"", Some("did you mean \"image\"?")),
        (
            "qqq = 1",
            "app.toml:1:1: unknown key \"qqq\"",
            Some("keys are image, command and the long options of `layermount run --help`"),
        ),
        ("config = \"b\"", "app.toml:1:1: a file cannot name another one: \"config\" is not a key", None),
        ("image = 3", "app.toml:1:9: image is a string, not a number", None),
        (
            "command = \"sh -c id\"",
            r#"app.toml:1:11: command is an array of words, such as ["sh", "-c", "id"], not a string"#,
            None,
        ),
        ("command = [\"a\", 1]", "app.toml:1:17: a word of command is a string, not a number", None),
        ("read-only = \"yes\"", "app.toml:1:13: read-only is true or false, not a string", None),
        ("user = true", "app.toml:1:8: user is a string, not true or false", None),
        ("user = [\"a\"]", "app.toml:1:8: user is a string, not an array", None),
        ("env = true", "app.toml:1:7: env is an array of strings or a table, not true or false", None),
        ("volume = {a = \"b\"}", "app.toml:1:10: volume is an array of strings, not a table", None),
        ("env = [\"A=1\", [1]]", "app.toml:1:15: a value of env is a string, not an array", None),
        ("[env]\nA = true", "app.toml:2:5: env.A is a string, not true or false", None),
        ("env = [\"=x\"]", "app.toml:1:8: env: \"=x\" cannot be used: a variable needs a name: KEY or KEY=VALUE", None),
        ("pid = \"hots\"", "app.toml:1:7: pid: \"hots\" cannot be used: there are private, host", None),
        (
            "# a\nworkdir = \"srv\"",
            "app.toml:2:11: workdir: \"srv\" cannot be used: inside the image, paths begin with /",
            None,
        ),
        ("user = \"a\"\nuser = \"b\"", "app.toml:2:1: duplicate key", None),
        (
            "net = \"host\"\nnetwork = \"host\"",
            "app.toml:2:1: \"network\" is another name of an option that is set already",
            None,
        ),
        ("ä = 1", "app.toml:1:1: ", None),
        ("image = \"x", "app.toml:1:", None),
    ] {
        let (said, hinted) = mistake(text);
        assert!(said.starts_with(message), "{text}: {said}");
        assert!(!said.contains('\n'), "{said}");
        if hint.is_some() || said == message {
            assert_eq!(hinted.as_deref(), hint, "{text}");
        }
    }
}

#[test]
fn a_file_is_a_command_line() {
    let file =
        "image = \"ubuntu\"\ncommand = [\"-x\", \"y z\"]\nenv = [\"A=1\", \"B\"]\nread-only = true\npin = false\n";
    assert_eq!(
        expanded(file, "layermount run --config c"),
        "run --env=A=1 --env=B --read-only --config c ubuntu -- -x y z"
    );
    assert_eq!(
        expanded("[env]\nB = 1\nA = \"x=y\"\n", "layermount run --config c i"),
        "run --env=B=1 --env=A=x=y --config c i"
    );
    assert_eq!(expanded("env = \"A=b\"", "layermount run --config c i -- sh"), "run --env=A=b --config c i -- sh");
    assert_eq!(expanded("upper-size = 4096", "layermount run --config c i"), "run --upper-size=4096 --config c i");
    assert_eq!(expanded("entrypoint = \"\"", "layermount run --config c i"), "run --entrypoint= --config c i");
}

#[test]
fn what_is_typed_goes_first() {
    let file = "image = \"ubuntu\"\ncommand = [\"sh\"]\n";
    // All words are the command's.
    for typed in ["layermount run --config c id -u", "layermount run --config c -- id -u"] {
        assert_eq!(expanded(file, typed), "run --config c ubuntu -- id -u");
    }
    assert_eq!(expanded("command = [\"sh\"]", "layermount run --config c debian"), "run --config c debian -- sh");
    assert_eq!(expanded("command = [\"sh\"]", "layermount run --config c debian -- id"), "run --config c debian -- id");
    // Several values are joined, single ones replaced, also by what cannot go with them.
    let file = "env = [\"A=1\"]\nuser = \"1\"\nread-only = true\nnet = \"host\"";
    assert_eq!(
        expanded(file, "layermount run -e B=2 -u 2 --network host --config c i"),
        "run --env=A=1 --read-only -e B=2 -u 2 --network host --config c i"
    );
    assert_eq!(expanded("read-only = true", "layermount run --upper d --config c i"), "run --upper d --config c i");
    assert_eq!(
        expanded("store = \"/s\"\nquiet = true", "layermount --store run --log-format json run --config c i"),
        "--store run --log-format json run --quiet --config c i"
    );
}

/// It is no image, and all that is typed is the command.
#[test]
fn a_directory_takes_the_place_of_an_image() {
    assert_eq!(
        expanded("directory = \"t\"", "layermount run --config c id -u"),
        "run --directory=dir/t --config c -- id -u"
    );
    assert_eq!(
        expanded("image = \"i\"\ncommand = [\"sh\"]", "layermount run -D t --config c"),
        "run -D t --config c -- sh"
    );
    assert_eq!(
        expanded("directory = \"t\"", "layermount bundle --config c d"),
        "bundle --directory=dir/t --config c d"
    );
}

#[test]
fn bundles_take_files_too() {
    let file = "image = \"ubuntu\"\ncommand = [\"sh\"]\nenv = [\"A=1\"]\n";
    assert_eq!(expanded(file, "layermount bundle --config c d"), "bundle --env=A=1 ubuntu --config c d -- sh");
    assert_eq!(expanded(file, "layermount bundle i d --config c -- id"), "bundle --env=A=1 i d --config c -- id");
}

#[test]
fn paths_are_relative_to_the_file() {
    for (text, expected) in [
        ("volume = [\"./a:/b\", \"/c:/d\"]", "--volume=dir/./a:/b --volume=/c:/d"),
        ("env-file = [\"x.env\"]", "--env-file=dir/x.env"),
        ("upper = \"/u\"", "--upper=/u"),
        ("store = \"s\"", "--store=dir/s"),
        ("workdir = \"/w\"", "--workdir=/w"),
        ("pidfile = \"p\"\ncidfile = \"/c\"", "--pidfile=dir/p --cidfile=/c"),
        ("mount = [\"type=bind,src=./a,dst=/b\"]", "--mount=type=bind,src=./dir/./a,dst=/b"),
        ("bind = [\"a:/b\", \"/c\"]\nbind-ro = [\"./a:/b\"]", "--bind=dir/a:/b --bind=/c --bind-ro=dir/./a:/b"),
        ("network = \"ns:n\"", "--network=ns:dir/n"),
        ("network = \"container:1\"", "--network=container:1"),
        ("listen = [\"unix:s,mode=0600\", \"tcp::80\"]", "--listen=unix:dir/s,mode=0600 --listen=tcp::80"),
        ("runtime = \"crun\"", "--runtime=crun"),
        ("runtime = \"./crun\"", "--runtime=dir/./crun"),
        (
            "security-opt = [\"seccomp=p.json\", \"seccomp=unconfined\"]",
            "--security-opt=seccomp=dir/p.json --security-opt=seccomp=unconfined",
        ),
    ] {
        assert_eq!(expanded(text, "layermount run --config c i"), format!("run {expected} --config c i"));
    }
}
