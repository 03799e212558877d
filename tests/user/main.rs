//! What a user sees and holds: logs, errors, progress, reports, boxed forms, the ends of workers;
//! and every promise of the README and of `docs/operations.md` has a test.
#![cfg(all(feature = "embedded", feature = "journal", feature = "object-store", feature = "testing"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod boxed;
mod ends;
mod errors;
mod front_page;
mod promises;
mod stored;
mod telling;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use tracing::{Event, Level, Subscriber, field::Field};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt as _};
use winddown::{
    Role, RunId, Topology, WorkerId,
    contracts::{Order, OrderError, OrderErrorKind, Transport},
};

/// One line of a log: its level, its fields as they are printed, and its message.
#[derive(Clone, Debug)]
struct Line {
    level: Level,
    fields: BTreeMap<&'static str, String>,
    message: String,
}

/// Everything that is logged on this thread while it is there.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Line>>>);

impl Log {
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(log.clone()));
        (log, guard)
    }

    fn lines(&self) -> Vec<Line> {
        self.0.lock().unwrap().clone()
    }

    /// The warnings about steps.
    fn escalations(&self) -> Vec<Line> {
        let mut lines = self.lines();
        lines.retain(|line| line.level == Level::WARN && line.fields.contains_key("reason"));
        lines
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line { level: *event.metadata().level(), fields: BTreeMap::new(), message: String::new() };
        event.record(&mut line);
        self.0.lock().unwrap().push(line);
    }
}

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.fields.insert(field.name(), format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

/// Takes every order in; nothing comes of it, except from workers that refuse.
#[derive(Debug, Default)]
struct Deaf {
    refuses: Option<WorkerId>,
}

impl Transport for Deaf {
    async fn send(&self, worker: WorkerId, _: Order) -> Result<(), OrderError> {
        if self.refuses == Some(worker) {
            return Err(OrderError::new(OrderErrorKind::Rejected, "no"));
        }
        Ok(())
    }
}

const RUN: RunId = RunId::new(7);

fn topology(workers: u64) -> Topology {
    let placement = (1..=workers).map(WorkerId::new);
    Topology::builder().operator("source", Role::Source, placement).build().unwrap()
}
