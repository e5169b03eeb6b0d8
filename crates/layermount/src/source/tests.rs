use super::*;
use crate::digest::Digest;
use crate::image::{Config, Content, ImageParts};

/// A source that answers always the same.
#[derive(Debug)]
struct Fixed {
    place: &'static str,
    answer: Result<&'static str, ErrorKind>,
    names: &'static [&'static str],
}

#[derive(Debug, thiserror::Error)]
#[error("not today")]
struct No;

impl Source for Fixed {
    fn describe(&self) -> String {
        self.place.to_owned()
    }

    fn accepts(&self, reference: &Reference) -> bool {
        matches!(reference, Reference::Name(_))
    }

    fn resolve(&self, _: &Reference, platform: &Platform) -> Result<Image> {
        let id = self.answer.map_err(|kind| Error::new(kind, No))?;
        Image::new(ImageParts {
            id: Some(Digest::sha256(id)),
            manifest_digest: None,
            names: Vec::new(),
            platform: platform.clone(),
            config: Config::empty(),
            descriptors: None,
            content: Content::Stored,
        })
    }

    fn names(&self) -> Vec<String> {
        self.names.iter().map(|&name| name.to_owned()).collect()
    }
}

fn resolve(reference: &str, answers: &[(&'static str, Result<&'static str, ErrorKind>)]) -> Result<Image> {
    let names = &["docker.io/library/ubuntu:22.04"];
    let fixed = |&(place, answer)| Box::new(Fixed { place, answer, names }) as Box<dyn Source>;
    Sources::new(answers.iter().map(fixed).collect()).resolve(&reference.parse().unwrap(), &Platform::host())
}

#[test]
fn the_first_that_has_it_wins() {
    let found = resolve("a", &[("x", Err(ErrorKind::ImageNotFound)), ("y", Ok("y")), ("z", Ok("z"))]).unwrap();
    assert_eq!(*found.id(), Digest::sha256("y"));
    let first = Sources::new(Vec::new()).with_first(Fixed { place: "x", answer: Ok("x"), names: &[] });
    assert!(first.resolve(&"a".parse().unwrap(), &Platform::host()).is_ok());
}

#[test]
fn only_absence_lets_the_search_go_on() {
    let failed = resolve("a", &[("x", Err(ErrorKind::PermissionDenied)), ("y", Ok("y"))]).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::PermissionDenied);
    let absent = Err(ErrorKind::EngineUnavailable);
    assert!(resolve("a", &[("x", absent), ("y", Ok("y"))]).is_ok());
    assert_eq!(resolve("a", &[("x", absent)]).unwrap_err().kind(), ErrorKind::EngineUnavailable);
}

#[test]
fn where_was_looked_and_what_to_do() {
    let places = [("the store", Err(ErrorKind::ImageNotFound)), ("Docker", Err(ErrorKind::EngineUnavailable))];
    let error = resolve("ubuntu", &places).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageNotFound);
    assert_eq!(
        format!("{error:#}"),
        "docker.io/library/ubuntu:latest was not found: the store says: not today\nDocker says: not today"
    );
    assert_eq!(error.hint().as_deref(), Some("did you mean ubuntu:22.04?"));
    assert!(resolve("fedora", &places).unwrap_err().hint().unwrap().contains("docker pull"));
    let nobody = resolve("rootfs:/x", &places).unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::Unsupported);
}
