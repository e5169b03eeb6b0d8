//! How the making of layers is shown: moving bars on a terminal, a line for each layer when details are wanted.
//!
//! The library calls from several threads. Bars are drawn by whichever thread brings news and never by one of their own:
//! a process with a second thread could not make a user namespace afterwards.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use layermount::store::{LayerEvent, Progress};
use layermount::{DiffId, Layer};

use crate::report::{Phase, Report};
use crate::text::bytes;

/// Work shorter than this shows no bars.
const PATIENCE: Duration = Duration::from_millis(300);

/// Watches layers being made.
#[derive(Debug)]
pub(crate) struct Bars {
    report: Report,
    since: Instant,
    multi: Option<MultiProgress>,
    layers: Mutex<HashMap<DiffId, State>>,
}

#[derive(Debug)]
struct State {
    since: Instant,
    /// Bytes of the blob, once this process unpacks the layer.
    read: Option<u64>,
    bar: Option<ProgressBar>,
}

impl Bars {
    pub(crate) fn new(report: Report) -> Self {
        let multi = report.shows_bars().then(MultiProgress::new);
        Self { report, since: Instant::now(), multi, layers: Mutex::default() }
    }

    /// Takes the bars away. Returns how many layers were unpacked.
    pub(crate) fn finish(self) -> usize {
        if let Some(multi) = &self.multi {
            // Whoever closed stderr does not want to see bars.
            let _ = multi.clear();
        }
        let layers = self.layers.into_inner().unwrap_or_else(PoisonError::into_inner);
        layers.values().filter(|state| state.read.is_some()).count()
    }

    /// The layer's bar, once the work has taken long enough for one.
    fn bar<'a>(&self, state: &'a mut State, layer: &Layer) -> Option<&'a ProgressBar> {
        if state.bar.is_none() && self.since.elapsed() >= PATIENCE {
            let bar = ProgressBar::no_length().with_prefix(layer.diff_id.digest().short().to_owned());
            state.bar = Some(self.multi.as_ref()?.add(bar.with_style(style("{prefix}  {bytes}  {msg}"))));
        }
        state.bar.as_ref()
    }
}

/// Both templates are fixed texts; were one malformed, the bar would look different.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Progress for Bars {
    fn layer(&self, layer: &Layer, event: LayerEvent) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let state = layers.entry(layer.diff_id.clone()).or_insert_with(|| State {
            since: Instant::now(),
            read: None,
            bar: None,
        });
        match event {
            LayerEvent::Waiting => {
                if let Some(bar) = self.bar(state, layer) {
                    bar.set_message("another process is making this layer");
                }
            }
            LayerEvent::Checking => {
                if let Some(bar) = self.bar(state, layer) {
                    bar.set_message("comparing with what was unpacked before the machine was restarted");
                }
            }
            LayerEvent::Unpacking { read, size } => {
                state.read = Some(read);
                if let Some(bar) = self.bar(state, layer) {
                    if let Some(size) = size.filter(|size| bar.length() != Some(*size)) {
                        bar.set_length(size);
                        bar.set_style(style("{prefix}  {bar:32}  {bytes} of {total_bytes}"));
                    }
                    bar.set_position(read);
                }
            }
            LayerEvent::Ready => {
                if let Some(bar) = state.bar.take() {
                    bar.finish_and_clear();
                }
                self.report.phase(Phase::Layers, state.since, || match state.read {
                    None => format!("another process made layer {}", layer.diff_id),
                    Some(read) => format!("unpacked layer {} from {}", layer.diff_id, bytes(read)),
                });
            }
            _ => {}
        }
    }
}
