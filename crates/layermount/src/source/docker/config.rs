//! The configuration document of an image that an engine holds, made from what the engine tells.
//!
//! An engine does not hand out the document itself. What it tells has all members that matter, under other names; the bytes
//! are not those whose digest is the image ID.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::digest::DiffId;

use super::engine::{HistoryStep, Inspect};

#[derive(Serialize)]
struct Document<'a> {
    architecture: &'a str,
    os: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<&'a RawValue>,
    rootfs: RootFs<'a>,
    history: Vec<Step<'a>>,
}

#[derive(Serialize)]
struct RootFs<'a> {
    r#type: &'static str,
    diff_ids: &'a [DiffId],
}

#[derive(Serialize)]
struct Step<'a> {
    created_by: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    comment: &'a str,
    empty_layer: bool,
}

/// The document. `history` is newest first, as the engine gives it.
pub(super) fn document(inspect: &Inspect, history: &[HistoryStep]) -> serde_json::Result<Vec<u8>> {
    let steps: Vec<&HistoryStep> = history.iter().rev().collect();
    let empty = empty_layers(&steps, inspect.root_fs.layers.len());
    let history = steps
        .iter()
        .zip(empty)
        .map(|(step, empty_layer)| Step { created_by: &step.created_by, comment: &step.comment, empty_layer })
        .collect();
    serde_json::to_vec(&Document {
        architecture: &inspect.architecture,
        os: &inspect.os,
        variant: inspect.variant.as_deref().filter(|text| !text.is_empty()),
        created: inspect.created.as_deref().filter(|text| !text.is_empty()),
        author: inspect.author.as_deref().filter(|text| !text.is_empty()),
        config: inspect.config.as_deref(),
        rootfs: RootFs { r#type: "layers", diff_ids: &inspect.root_fs.layers },
        history,
    })
}

/// Which steps made no layer. The engine keeps that to itself, and a layer may have no bytes, so it is worked out: by
/// size where that gives the right count, else by size and instruction. Where neither does, the counts do not agree, and
/// [`Config`](crate::Config) then claims no step for any layer.
fn empty_layers(steps: &[&HistoryStep], layers: usize) -> Vec<bool> {
    let none = |_: &HistoryStep| false;
    let by_size = |step: &HistoryStep| step.size == 0;
    let by_instruction = |step: &HistoryStep| step.size == 0 && only_sets_configuration(&step.created_by);
    let ways: [&dyn Fn(&HistoryStep) -> bool; 3] = [&none, &by_size, &by_instruction];
    ways.into_iter()
        .map(|way| steps.iter().map(|step| way(step)).collect::<Vec<bool>>())
        .find(|empty| empty.iter().filter(|empty| !**empty).count() == layers)
        .unwrap_or_else(|| vec![false; steps.len()])
}

/// As BuildKit (`ENV A=b`) and the classic builder (`/bin/sh -c #(nop)  ENV A=b`) write them. `WORKDIR` may make a layer.
fn only_sets_configuration(created_by: &str) -> bool {
    const INSTRUCTIONS: [&str; 13] = [
        "ARG",
        "CMD",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "HEALTHCHECK",
        "LABEL",
        "MAINTAINER",
        "ONBUILD",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
    ];
    let instruction = created_by.split_once("#(nop)").map_or(created_by, |(_, instruction)| instruction);
    instruction.split_whitespace().next().is_some_and(|word| INSTRUCTIONS.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty(steps: &[(&str, i64)], layers: usize) -> Vec<bool> {
        let steps: Vec<_> = steps
            .iter()
            .map(|(created_by, size)| HistoryStep {
                created_by: (*created_by).to_owned(),
                size: *size,
                ..HistoryStep::default()
            })
            .collect();
        empty_layers(&steps.iter().collect::<Vec<_>>(), layers)
    }

    #[test]
    fn steps_without_a_layer_are_found() {
        assert_eq!(empty(&[("ADD a", 5), ("RUN true", 0)], 2), [false, false]);
        assert_eq!(empty(&[("ADD a", 5), ("WORKDIR /", 0), ("RUN b", 1)], 2), [false, true, false]);
        assert_eq!(
            empty(&[("ADD a", 5), ("/bin/sh -c #(nop)  CMD [\"x\"]", 0), ("RUN true", 0)], 2),
            [false, true, false]
        );
        assert_eq!(empty(&[("ADD a", 5), ("WORKDIR /", 0), ("WORKDIR /", 0)], 2), [false; 3], "no way to know");
    }
}
