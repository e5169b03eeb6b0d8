use proptest::prelude::*;

use super::*;
use crate::error::{ErrorKind, Fault};

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn name(text: &str) -> ImageName {
    match text.parse() {
        Ok(Reference::Name(name)) => name,
        other => panic!("{text:?} is {other:?}"),
    }
}

#[test]
fn names_are_normalised_as_docker_does() {
    for (typed, full, familiar) in [
        ("ubuntu", "docker.io/library/ubuntu:latest", "ubuntu:latest"),
        ("ubuntu:24.04", "docker.io/library/ubuntu:24.04", "ubuntu:24.04"),
        ("team/app", "docker.io/team/app:latest", "team/app:latest"),
        ("index.docker.io/ubuntu", "docker.io/library/ubuntu:latest", "ubuntu:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/a/b:tag", "localhost:5000/a/b:tag", "localhost:5000/a/b:tag"),
        ("quay.io/a/b", "quay.io/a/b:latest", "quay.io/a/b:latest"),
        ("[::1]:5000/a:1", "[::1]:5000/a:1", "[::1]:5000/a:1"),
        ("REGISTRY/a:1", "REGISTRY/a:1", "REGISTRY/a:1"),
        ("docker:24-dind", "docker.io/library/docker:24-dind", "docker:24-dind"),
        ("docker.io/library/oci:1", "docker.io/library/oci:1", "docker.io/library/oci:1"),
        ("a__b/c---d.e:X_1", "docker.io/a__b/c---d.e:X_1", "a__b/c---d.e:X_1"),
    ] {
        let name = name(typed);
        assert_eq!((name.to_string().as_str(), name.familiar().as_str()), (full, familiar));
    }
    let both = name(&format!("host:1/a/b:tag@sha256:{HEX}"));
    assert_eq!((both.registry(), both.repository(), both.tag()), ("host:1", "a/b", Some("tag")));
    assert_eq!(both.digest().unwrap().hex(), HEX);
    assert_eq!(name(&format!("ubuntu@sha256:{HEX}")).tag(), None);
    assert_eq!(ImageName::new("docker.io", "ubuntu", None, None).unwrap(), name("ubuntu"));
    assert!(ImageName::new("docker.io", "Ubuntu", None, None).is_err());
}

#[test]
fn image_ids_and_what_may_be_one() {
    let id: Reference = format!("sha256:{HEX}").parse().unwrap();
    assert!(matches!(&id, Reference::Id(digest) if digest.hex() == HEX));
    assert_eq!(id, HEX.parse().unwrap());
    assert_eq!(name("1a2b3c4").as_id_prefix(), Some("1a2b3c4"));
    for not in ["1a2b3c", "1a2b3cg", "1a2b3c4:2", "team/1a2b3c4"] {
        assert_eq!(name(not).as_id_prefix(), None, "{not}");
    }
    assert!("sha256:abc".parse::<Reference>().is_err());
}

#[test]
fn transports() {
    let oci = |directory: &str, selector| Reference::OciLayout { directory: directory.into(), selector };
    let digest: Digest = format!("sha256:{HEX}").parse().unwrap();
    for (typed, expected) in [
        ("oci:/srv/app".to_owned(), oci("/srv/app", OciSelector::Only)),
        ("oci:app@1/x".to_owned(), oci("app@1/x", OciSelector::Only)),
        ("oci:app:24.04".to_owned(), oci("app", OciSelector::Name("24.04".into()))),
        ("oci:a:b/c:1".to_owned(), oci("a", OciSelector::Name("b/c:1".into()))),
        (format!("oci:app@{digest}"), oci("app", OciSelector::Digest(digest.clone()))),
        ("docker-daemon:busybox".to_owned(), Reference::DockerDaemon(DaemonImage::Name(name("busybox")))),
        (format!("docker-daemon:{HEX}"), Reference::DockerDaemon(DaemonImage::Id(digest.clone()))),
        ("rootfs:/a:b".to_owned(), Reference::Rootfs("/a:b".into())),
    ] {
        assert_eq!(typed.parse::<Reference>().unwrap(), expected, "{typed}");
    }
    for typed in
        ["docker://ubuntu", "oci-archive:x.tar", "docker-archive:x", "containers-storage:x", "dir:/x", "https://a/b"]
    {
        let error = typed.parse::<Reference>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{typed}");
        assert!(error.hint().unwrap().contains("oci:DIR"), "{typed}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let long = |n: usize| "a".repeat(n);
    for (typed, says) in [
        ("".to_owned(), "it has no name"),
        ("Ubuntu".to_owned(), r#"the name "Ubuntu" has an upper case letter, 'U'"#),
        ("ub untu".to_owned(), r#"the name "ub untu" cannot contain ' '"#),
        ("-a".to_owned(), "begin with"),
        ("a..b".to_owned(), "separator such as '.'"),
        ("a//b".to_owned(), "separator such as '/'"),
        ("a___b".to_owned(), "separator such as '_'"),
        ("ubuntu:".to_owned(), "it has no tag"),
        ("ubuntu:a b".to_owned(), r#"the tag "a b" cannot contain ' '"#),
        ("ubuntu:.a".to_owned(), "separator such as '.'"),
        ("ubuntu@sha256:12".to_owned(), r#""sha256:12" is not a sha256"#),
        ("host:port/a".to_owned(), r#"the port in the registry "host:port""#),
        ("/a".to_owned(), "separator such as '/'"),
        ("oci:".to_owned(), "it has no directory"),
        ("oci:a:".to_owned(), "it has no name after the directory"),
        (format!("oci:a:b@sha256:{HEX}"), "not by both"),
        ("rootfs:".to_owned(), "it has no directory"),
        (long(256), "the name has 264 characters"),
        (format!("a:{}", long(129)), "the tag has 129 characters"),
        ("\u{0}".to_owned(), "cannot contain"),
    ] {
        let error = typed.parse::<Reference>().unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    let upper = "Team.Example/App".parse::<Reference>().unwrap_err();
    assert_eq!(upper.hint().as_deref(), Some("names are lower case: team.example/app"));
    for path in ["./app", "/srv/app", "../x:1"] {
        assert!(path.parse::<Reference>().unwrap_err().hint().unwrap().contains("oci:DIR"), "{path}");
    }
    assert!(long(1 << 20).parse::<Reference>().unwrap_err().to_string().len() < 1000);
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = text.parse::<Reference>();
    }

    #[test]
    fn what_is_printed_parses_to_the_same(
        text in "((oci|rootfs|docker-daemon|docker|dir):)?([a-zA-Z0-9.]{1,9}(:[0-9]{1,5})?/)?[a-z0-9._/:@-]{1,24}(@sha256:[0-9a-f]{64})?",
    ) {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference.clone());
            if let Reference::Name(name) = reference {
                prop_assert_eq!(name.familiar().parse::<Reference>().unwrap(), Reference::Name(name.clone()));
                prop_assert_eq!(name.to_string().parse::<ImageName>().unwrap(), name);
            }
        }
    }
}
