//! The image configuration, read as leniently as Docker and Go read it.
//!
//! `null` and absent mean "empty" everywhere, unknown members are ignored, and members that layermount does not need are not
//! looked at. What is not forgiven: a document over 4 MiB, a member given twice, and a diff ID that cannot be verified.
//!
//! Source of the members: the OCI image specification, `config.md`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::DiffId;
use crate::error::Result;

use super::Platform;
use super::deferred::Deferred;
use super::document::{self, null_is_default};

/// An image's configuration: how to run it, and the diff IDs of its layers.
#[derive(Debug, Clone)]
pub struct Config {
    execution: Execution,
    text: Deferred<ConfigText>,
}

/// The document, and what is in it besides what is executed.
#[derive(Debug, Clone, Default)]
pub(super) struct ConfigText {
    raw: Vec<u8>,
    document: Document,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Document {
    #[serde(deserialize_with = "null_is_default")]
    architecture: String,
    #[serde(deserialize_with = "null_is_default")]
    os: String,
    variant: Option<String>,
    created: Option<String>,
    author: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    config: Execution,
    #[serde(deserialize_with = "null_is_default")]
    rootfs: RootFs,
    #[serde(deserialize_with = "null_is_default")]
    history: Vec<HistoryEntry>,
}

/// How programs are run in the image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Execution {
    #[serde(deserialize_with = "null_is_default")]
    user: String,
    #[serde(deserialize_with = "null_is_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_is_default")]
    volumes: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_is_default")]
    labels: BTreeMap<String, String>,
    stop_signal: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RootFs {
    #[serde(deserialize_with = "null_is_default")]
    diff_ids: Vec<DiffId>,
}

/// One step of the build that made the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// When, as RFC 3339 text.
    pub created: Option<String>,
    /// The command.
    pub created_by: Option<String>,
    /// Free text.
    pub comment: Option<String>,
    /// The step made no layer.
    #[serde(deserialize_with = "null_is_default")]
    pub empty_layer: bool,
}

impl Config {
    /// Reads a configuration document.
    pub fn parse(raw: impl Into<Vec<u8>>) -> Result<Self> {
        let raw = raw.into();
        let mut document: Document = document::parse("image config", &raw)?;
        let execution = std::mem::take(&mut document.config);
        Ok(Self { execution, text: Deferred::ready(ConfigText { raw, document }) })
    }

    /// A configuration that says nothing, for a plain directory.
    pub fn empty() -> Self {
        let text = ConfigText { raw: b"{}".to_vec(), document: Document::default() };
        Self { execution: Execution::default(), text: Deferred::ready(text) }
    }

    /// A configuration of which the document is looked at when somebody asks for what only that says.
    pub(super) fn deferred(execution: Execution, text: Deferred<ConfigText>) -> Self {
        Self { execution, text }
    }

    pub(super) fn text(&self) -> &ConfigText {
        &self.text
    }

    pub(crate) fn execution(&self) -> &Execution {
        &self.execution
    }

    /// The document as it was read.
    pub fn raw(&self) -> &[u8] {
        &self.text.raw
    }

    /// The platform that the document states, if it states one.
    pub fn platform(&self) -> Option<Platform> {
        let Document { os, architecture, variant, .. } = &self.text.document;
        (!os.is_empty() && !architecture.is_empty()).then(|| Platform::new(os, architecture, variant.as_deref()))
    }

    /// The diff IDs of the layers, base first.
    pub fn diff_ids(&self) -> &[DiffId] {
        &self.text.document.rootfs.diff_ids
    }

    /// All steps of the build, also those without a layer, oldest first.
    pub fn history(&self) -> &[HistoryEntry] {
        &self.text.document.history
    }

    /// The command behind each layer, base first. Histories are for people and are often wrong: where their count of
    /// layers is not the image's, no command is claimed for any.
    pub(crate) fn created_by_layer(&self) -> Vec<Option<String>> {
        let steps: Vec<_> =
            self.history().iter().filter(|step| !step.empty_layer).map(|step| step.created_by.clone()).collect();
        if steps.len() == self.diff_ids().len() { steps } else { Vec::new() }
    }

    /// When the image was made, as RFC 3339 text.
    pub fn created(&self) -> Option<&str> {
        self.text.document.created.as_deref()
    }

    /// Who made the image.
    pub fn author(&self) -> Option<&str> {
        self.text.document.author.as_deref()
    }

    /// `user[:group]`, names or numbers; empty for root.
    pub fn user(&self) -> &str {
        &self.execution.user
    }

    /// `KEY=value`, in order.
    pub fn env(&self) -> &[String] {
        &self.execution.env
    }

    /// What always runs.
    pub fn entrypoint(&self) -> &[String] {
        &self.execution.entrypoint
    }

    /// What runs, or the arguments of the entrypoint, unless the caller gives others.
    pub fn cmd(&self) -> &[String] {
        &self.execution.cmd
    }

    /// The directory to start in; empty for `/`.
    pub fn working_dir(&self) -> &str {
        &self.execution.working_dir
    }

    /// `80/tcp` and so on.
    pub fn exposed_ports(&self) -> impl Iterator<Item = &str> {
        self.execution.exposed_ports.keys().map(String::as_str)
    }

    /// Directories that hold data not to be kept in the image.
    pub fn volumes(&self) -> impl Iterator<Item = &str> {
        self.execution.volumes.keys().map(String::as_str)
    }

    /// Labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.execution.labels
    }

    /// The signal that asks the program to end, such as `SIGQUIT`.
    pub fn stop_signal(&self) -> Option<&str> {
        self.execution.stop_signal.as_deref().filter(|signal| !signal.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::MAX_DOCUMENT;
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn nulls_and_absences_are_empty() {
        let config = Config::parse(
            r#"{"rootfs":{"type":"layers","diff_ids":null},"config":{"Env":null,"Labels":null},"history":null}"#,
        )
        .unwrap();
        assert!(config.diff_ids().is_empty());
        assert!(config.env().is_empty());
        assert!(config.history().is_empty());
        assert_eq!(config.platform(), None);
        assert!(Config::parse("{}").unwrap().entrypoint().is_empty());
        assert!(Config::parse(r#"{"config":null,"rootfs":null}"#).is_ok());
    }

    #[test]
    fn what_is_not_forgiven() {
        for bad in [
            "",
            "null null",
            "[]",
            r#"{"os":"linux","os":"windows"}"#,
            r#"{"rootfs":{"diff_ids":["sha256:../../x"]}}"#,
            r#"{"config":{"Env":"PATH=/bin"}}"#,
            &"[".repeat(100_000),
        ] {
            let error = Config::parse(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidImage, "{bad:.60}");
        }
        let large = format!(r#"{{"author":"{}"}}"#, "a".repeat(MAX_DOCUMENT as usize));
        assert!(Config::parse(large).is_err());
    }

    #[test]
    fn created_by_belongs_to_layers_only_when_counts_agree() {
        let diff = crate::digest::Digest::sha256("a");
        let with = |history: &str| {
            Config::parse(format!(r#"{{"rootfs":{{"diff_ids":["{diff}"]}},"history":{history}}}"#))
                .unwrap()
                .created_by_layer()
        };
        assert_eq!(with(r#"[{"created_by":"A"},{"created_by":"B","empty_layer":true}]"#), [Some("A".to_owned())]);
        assert!(with(r#"[{"created_by":"A"},{"created_by":"B"}]"#).is_empty());
        assert!(with("[]").is_empty());
    }
}
