//! What a long-running command tells: lines for people, or one JSON object a
//! line for programs, always on standard output. Not the log.

use std::io::Write;
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::arguments::Output;

/// Prints the steps of one command, each with the time since its start.
pub(crate) struct Progress {
    output: Output,
    started: Instant,
}

impl Progress {
    /// Starts the clock.
    pub(crate) fn new(output: Output) -> Self {
        Self { output, started: Instant::now() }
    }

    /// A step is done. `event` is for programs and stays stable; `text` is for
    /// people; `facts` are added to the object.
    pub(crate) fn step(&self, event: &str, text: &str, facts: Value) {
        let elapsed_ms = self.elapsed_ms();
        let line = match self.output {
            Output::Text => format!("{:>7.3} s  {text}", elapsed_ms / 1000.0),
            Output::Json => {
                let mut object = Map::new();
                object.insert("event".to_owned(), json!(event));
                object.insert("elapsedMs".to_owned(), json!(elapsed_ms));
                if let Value::Object(facts) = facts {
                    object.extend(facts);
                }
                Value::Object(object).to_string()
            }
        };
        self.print(&line);
    }

    /// Text for people only: tables, hints.
    pub(crate) fn text(&self, text: &str) {
        if self.output == Output::Text {
            self.print(text);
        }
    }

    /// Milliseconds since the start, to the microsecond.
    pub(crate) fn elapsed_ms(&self) -> f64 {
        let microseconds = u32::try_from(self.started.elapsed().as_micros()).unwrap_or(u32::MAX);
        f64::from(microseconds) / 1000.0
    }

    #[expect(clippy::let_underscore_must_use, reason = "a reader that went away is no reason to stop the cluster")]
    fn print(&self, line: &str) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}");
        let _ = out.flush();
    }
}
